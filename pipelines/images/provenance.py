"""Statements of an image's own metadata: whether AI made it, and whether it may be used to train AI.

Two kinds of metadata say so. XMP (ISO 16684-1) has the IPTC's ``DigitalSourceType``, the PLUS Coalition's
``DataMining`` and the W3C's ``tdm:reservation``; a C2PA manifest has the same source types in its actions, and entries
for data mining. Nothing is verified: a signature shows who said it, and that does not matter here.

The metadata is untrusted: containers are walked (``embedded.py``), not decoded, and XML is read without a tree and
without entities.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple
from xml.parsers import expat

from pipelines.images.embedded import c2pa_of, xmp_of
from pipelines.images.jumbf import assertions

__all__ = ["Provenance", "provenance"]

_SOURCE = ("http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "DigitalSourceType")
_MINING = ("http://ns.useplus.org/ldf/xmp/1.0/", "DataMining")
_RESERVATION = ("http://www.w3.org/ns/tdmrep/", "reservation")
_PROPERTIES = (_SOURCE, _MINING, _RESERVATION)
_NAMES = tuple(name.encode() for _, name in _PROPERTIES)
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MAX_DEPTH, _MAX_VALUES, _MAX_VALUE, _MAX_NODES = 64, 50, 200, 5000
_TRAINING = ("ai_training", "ai_generative_training", "data_mining")  # entries of a training-mining assertion


class Provenance(NamedTuple):
    """``source``: the IPTC's terms for how the image was made, such as ``trainedAlgorithmicMedia``.

    ``opt_out``: the words that withhold it from training. Both are empty if nothing is said.
    """

    source: str = ""
    opt_out: str = ""


def provenance(data: bytes) -> Provenance:
    """Return what the metadata of an image file says. Damaged metadata says what comes before the damage."""
    sources: dict[str, None] = {}
    words: dict[str, None] = {}
    for packet in xmp_of(data):
        if any(name in packet for name in _NAMES):
            for name, value in _Properties().read(packet):
                if name == _SOURCE:
                    sources[_term(value)] = None
                elif "PROHIBITED" in value.upper() if name == _MINING else value == "1":
                    words[f"XMP {'plus' if name == _MINING else 'tdm'}:{name[1]}: {_term(value)}"] = None
    for label, content in assertions(c2pa_of(data)):
        sources |= dict.fromkeys(map(_term, _source_types(content)))
        if "training-mining" in label:
            words |= dict.fromkeys(_withheld(label, content))
    return Provenance(", ".join(filter(None, sources)), "; ".join(words))


def _term(value: str) -> str:
    """Return the last part of a term's address, which is all that differs."""
    return value.strip().rstrip("/").rpartition("/")[2][:_MAX_VALUE]


def _source_types(content: Any) -> Iterator[str]:  # noqa: ANN401 - CBOR has no tighter type
    """Yield the source types anywhere in decoded CBOR or JSON, whose values may refer to one another in circles."""
    stack = [content]
    for _ in range(_MAX_NODES):
        if not stack:
            return
        value = stack.pop()
        if isinstance(value, dict):
            for key, item in islice(value.items(), _MAX_NODES):
                if isinstance(item, str) and str(key).rpartition(":")[2].lower() == "digitalsourcetype":
                    yield item
            stack += islice(value.values(), _MAX_NODES)
        elif isinstance(value, (list, tuple)):
            stack += value[:_MAX_NODES]


def _withheld(label: str, content: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield the entries of a training-mining assertion that do not simply allow: constraints are for people to read."""
    entries = content.get("entries") if isinstance(content, dict) else None
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        use = entry.get("use") if isinstance(entry, dict) else None
        if isinstance(name, str) and name.rpartition(".")[2] in _TRAINING and use in ("notAllowed", "constrained"):
            yield f"C2PA {label.partition('__')[0][:50]}: {name[:50]}={use}"


class _EndError(Exception):
    """Ends the reading: a document type, or more than anybody writes."""


class _Properties:
    """Reads the values of our properties in XMP: an attribute, an element's text or its ``rdf:resource``."""

    def __init__(self) -> None:
        self._found: list[tuple[tuple[str, str], str]] = []
        self._inside: list[tuple[str, str] | None] = []  # of each open element the property it is, if any
        self._text = ""

    def read(self, packet: bytes) -> list[tuple[tuple[str, str], str]]:
        parser = expat.ParserCreate(namespace_separator="\n")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = self._data, _refuse
        with suppress(expat.ExpatError, _EndError, ValueError, LookupError):  # what was read before is said
            parser.Parse(packet.strip(b"\0 \t\r\n"), True)
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._inside) > _MAX_DEPTH or len(self._found) > _MAX_VALUES:
            raise _EndError
        found = _property(name)
        self._inside.append(found)
        if found:
            self._text = ""
            if resource := attributes.get(f"{_RDF}\nresource"):
                self._found.append((found, resource.strip()))
        for attribute, value in attributes.items():
            if known := _property(attribute):
                self._found.append((known, value.strip()))

    def _data(self, text: str) -> None:
        if any(self._inside):  # rdf:Bag and rdf:li may be around the text
            self._text = (self._text + text)[: 2 * _MAX_VALUE]

    def _end(self, _: str) -> None:
        if (found := self._inside.pop()) and (value := self._text.strip()):
            self._found.append((found, value))


def _property(name: str) -> tuple[str, str] | None:
    space, _, local = name.partition("\n")
    return (space, local) if (space, local) in _PROPERTIES else None


def _refuse(*_: object) -> None:
    raise _EndError
