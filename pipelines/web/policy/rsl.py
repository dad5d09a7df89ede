"""Licence terms in Really Simple Licensing (RSL 1.0, rslstandard.org): may we train on a URL without asking or paying?

XML: ``rsl > content[url, server] > license > permits, prohibits, payment``. Terms that cannot be read, or that depend
on what only people can tell (who asks, from where), count as withheld: a site that names a licence wants it kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self
from xml.parsers import expat

from pipelines.web.policy.patterns import longest_matches, path_of

__all__ = ["Terms"]

_TRAINING = frozenset({"all", "ai-all", "ai-train", "train-ai", "ai", "ai-use", "train-genai"})  # with earlier drafts'
_MAX_DEPTH, _MAX_CONTENTS = 16, 1000


@dataclass
class _License:
    permits: set[str] | None = None  # None: everything that is not prohibited
    reasons: list[str] = field(default_factory=list)  # why training is not free


@dataclass(frozen=True)
class Terms:
    """Terms of one file. ``contents``: (pattern of paths or URLs, why training is withheld; empty: it is free)."""

    contents: tuple[tuple[str, str], ...] = ()
    unreadable: str = ""
    size: int = 200

    @classmethod
    def parse(cls, status: int, body: bytes) -> Self:
        if not 200 <= status < 300:
            return cls(unreadable=f"not readable: {status}")
        reader = _Reader()
        try:
            reader.read(body)
        except (expat.ExpatError, _EndError, UnicodeDecodeError, ValueError, LookupError):
            return cls(unreadable="not readable: no RSL", size=200 + len(body))
        return cls(tuple(reader.contents), size=200 + 2 * len(body))

    def refusal(self, url: str) -> str:
        """Return why a canonical URL must not be trained on; empty if it may, or if the terms are about others."""
        if self.unreadable:
            return self.unreadable
        by_path = [(pattern, why) for pattern, why in self.contents if pattern.startswith(("/", "*"))]
        by_url = [(pattern, why) for pattern, why in self.contents if not pattern.startswith(("/", "*"))]
        whys = longest_matches(url, by_url) or longest_matches(path_of(url), by_path)
        return next(filter(None, whys), "")


class _EndError(Exception):
    """Ends the reading: not RSL, or more of it than anybody writes."""


class _Reader:
    """Collects a reason, or none, for each ``content``. Names are compared without namespace prefix."""

    def __init__(self) -> None:
        self.contents: list[tuple[str, str]] = []
        self._path: list[str] = []
        self._content: dict[str, str] = {}
        self._licenses: list[_License] = []
        self._type, self._text = "", ""

    def read(self, body: bytes) -> None:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._data
        parser.StartDoctypeDeclHandler = _refuse  # no entities to expand
        parser.Parse(body, True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2].lower()
        self._path.append(name)
        if len(self._path) > _MAX_DEPTH or len(self.contents) > _MAX_CONTENTS or self._path[0] != "rsl":
            raise _EndError
        kind = attributes.get("type", "").strip().lower()
        if name == "content":
            self._content, self._licenses = attributes, []
        elif name == "license":
            self._licenses.append(_License())
        elif name in ("permits", "prohibits"):
            self._type, self._text = kind, ""
        elif name == "payment" and self._licenses and kind != "free":
            self._licenses[-1].reasons.append(f"payment {kind}".strip())

    def _data(self, text: str) -> None:
        self._text = (self._text + text)[:1000]

    def _end(self, _: str) -> None:
        name = self._path.pop()
        if name == "content":
            self.contents.append((self._content.get("url", "/").strip() or "/", self._reason()))
        elif self._licenses and name in ("permits", "prohibits"):
            self._term(self._licenses[-1], name)

    def _term(self, license: _License, name: str) -> None:
        """Apply an element that ends. A second ``permits`` adds to the first."""
        words = set(self._text.lower().replace(",", " ").split())
        if self._type not in ("", "usage"):
            license.reasons.append(f"{name} {self._type}")
        elif name == "permits":
            license.permits = (license.permits or set()) | words
        elif words & _TRAINING:
            license.reasons.append(f"prohibits {' '.join(sorted(words & _TRAINING))}")

    def _reason(self) -> str:
        """Return why training is withheld: any of several licences may be chosen, unless one of them prohibits."""
        if self._content.get("server"):
            return "a licence server"
        reasons = []
        for license in self._licenses:
            if license.permits is not None and not license.permits & _TRAINING:
                license.reasons.append(f"permits {' '.join(sorted(license.permits))[:100]}")
            reasons.append(", ".join(license.reasons))
        prohibited = next((reason for reason in reasons if "prohibits" in reason), "")
        return prohibited or ("" if "" in reasons or not reasons else reasons[0])


def _refuse(*_: object) -> None:
    raise _EndError
