"""Read test sets in CLIP_benchmark's WebDataset layout, as strictly as an evaluation must.

::

    {name}/dataset_type.txt                        one of KINDS; "classification" if it is absent
    {name}/classnames.txt                          a class per line, in label order
    {name}/zeroshot_classification_templates.txt   a prompt per line, with {c} for the class
    {name}/{split}/nshards.txt, {i}.tar            image + cls (a number), or image + txt (a caption per line); + json

What an optional ``json`` says of a sample (its group, the languages of its captions) is for tasks to read.
A sample that cannot be read is an error, never a skip: leaving out the hard ones would flatter the model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError, DataError
from infra.formats.shards import IMAGE_EXTENSIONS, dotted_name_hint, read_samples
from infra.run.manifest import Artifact
from infra.schema import Drop
from infra.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["KINDS", "EvalSet", "Packed", "Sample", "decode_image", "prompts"]

KINDS = {
    "classification": "an image has one of the set's classes",
    "retrieval": "all captions of an image are right",
    "analogies": "the captions of an image are the values of its attributes",
    "image_caption_selection": "the first caption of an image is right, the others are wrong",
}
"""Kinds of test sets, as ``dataset_type.txt`` names them; the last is CLIP_benchmark's name of the task."""


@dataclass(frozen=True)
class Sample:
    """One image of a test set.

    ``label`` counts from 0 and is -1 in a set with captions; ``captions`` is empty in a classification set;
    ``metadata`` is its JSON object as text, or "".
    """

    key: str
    image: Image
    label: int
    captions: tuple[str, ...]
    metadata: str = ""


@dataclass(frozen=True)
class Packed:
    """A sample whose image is still encoded."""

    key: str
    image: bytes
    label: int
    captions: tuple[str, ...]
    metadata: str = ""

    def without_image(self) -> Packed:
        """The sample with no bytes, to be kept."""
        return replace(self, image=b"")


@dataclass(frozen=True)
class EvalSet:
    """One split of one test set of an artifact."""

    name: str
    split: str
    store: Store
    kind: str  # one of KINDS
    classes: tuple[str, ...]
    templates: tuple[str, ...]  # empty if the set brings none
    shards: int

    @classmethod
    def open(cls, artifact: Artifact, name: str, split: str) -> EvalSet:
        """Open the set under ``data/{name}``. Raises ConfigError if the artifact has no such set or split."""
        return cls.at(artifact.store.child("data"), name, split)

    @classmethod
    def at(cls, folder: Store, name: str, split: str) -> EvalSet:
        """Open the set in the folder ``name`` of ``folder``.

        Raises ConfigError if there is no such set or split, DataError if the set cannot be scored as it is.
        """
        name = name.strip("/")
        store = folder.child(name)
        if not store.exists(f"{split}/nshards.txt"):
            found = {path.removesuffix("/nshards.txt") for path in folder.paths() if path.endswith("/nshards.txt")}
            raise ConfigError(
                f"{folder.url} has no test set {name!r} with split {split!r}",
                expected=f"{name}/{split}/nshards.txt",
                found=f"test sets {', '.join(sorted(found)) or 'none'}",
            )
        kind = (_lines(store, "dataset_type.txt") or ("classification",))[0].lower()
        if kind not in KINDS:
            raise DataError(
                f"test set {name!r} is of a kind clipline cannot score",
                expected=f"{', '.join(KINDS)} in dataset_type.txt",
                found=kind,
            )
        return cls(
            name=name,
            split=split,
            store=store,
            kind=kind,
            classes=_classes(store),
            templates=_templates(store),
            shards=_shards(store, split),
        )

    @property
    def retrieval(self) -> bool:
        """True if every caption belongs to its image, so that images and captions can search each other."""
        return self.kind == "retrieval"

    @property
    def captioned(self) -> bool:
        """True if images have captions, right or wrong; False if they have classes."""
        return self.kind != "classification"

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample in shard order. Raises DataError naming a sample that cannot be read."""
        for raw in self._raw():
            packed = self._packed(raw)
            image = decode_image(packed.image, packed.key)
            yield Sample(packed.key, image, packed.label, packed.captions, packed.metadata)

    def images(self, places: Collection[int]) -> dict[int, Image]:
        """Return the images at ``places``, counted in the order of iteration; the others are skipped undecoded."""
        wanted = set(places)
        found: dict[int, Image] = {}
        for place, raw in enumerate(self._raw()):
            if len(found) == len(wanted):
                break
            if place in wanted:
                found[place] = decode_image(_image_bytes(raw), raw["__key__"])
        return found

    def encoded(self, shard: int) -> Iterator[tuple[str, bytes]]:
        """Yield key and encoded image of every sample of a shard."""
        for raw in self._shard(shard):
            yield raw["__key__"], _image_bytes(raw)

    def packed(self, shard: int) -> Iterator[Packed]:
        """Yield every sample of a shard. Raises DataError naming one that is not as it must be."""
        return map(self._packed, self._shard(shard))

    def _packed(self, raw: dict[str, Any]) -> Packed:
        return Packed(
            key=raw["__key__"],
            image=_image_bytes(raw),
            label=-1 if self.captioned else self._label(raw),
            captions=_captions(raw) if self.captioned else (),
            metadata=_metadata(raw),
        )

    def _shard(self, shard: int) -> Iterator[dict[str, Any]]:
        path = f"{self.split}/{shard}.tar"
        try:
            source = self.store.open(path)
        except FileNotFoundError:
            raise DataError(
                f"{self.store.locate(path)} is missing", expected=f"{self.shards} shards, as in nshards.txt"
            ) from None
        with source:
            yield from read_samples(source, place=self.store.locate(path))

    def _raw(self) -> Iterator[dict[str, Any]]:
        samples = 0
        for shard in range(self.shards):
            for raw in self._shard(shard):
                samples += 1
                yield raw
        if not samples:
            raise DataError(f"test set {self.name!r} is empty", expected="an image at least")

    def _label(self, raw: dict[str, Any]) -> int:
        text = raw.get("cls", b"").strip()
        if not text.isdigit() or int(text) >= len(self.classes):
            raise DataError(
                f"sample {raw['__key__']!r} of {self.name} has no valid label",
                expected=f"cls holding 0 to {len(self.classes) - 1}",
                found=repr(text[:40]),
            )
        return int(text)


def prompts(classes: Sequence[str], templates: Sequence[str] = ()) -> list[str]:
    """Return the prompts of all classes, those of a class side by side; without templates, CLIP's 80 for ImageNet."""
    if templates:
        # Not str.format: a template comes from a file, and {c.__class__} should stay what it is, text.
        return [template.replace("{c}", name) for name in classes for template in templates]
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template(name) for name in classes for template in OPENAI_IMAGENET_TEMPLATES]


def decode_image(data: bytes, key: str) -> Image:
    """Decode an image as RGB by :func:`infra.images.like_open_clip.decode_like_open_clip`, whatever format it has.

    Raises DataError, naming the sample ``key``; one that is too large before a pixel is decoded.
    """
    from PIL import Image

    from infra.images.errors import ImageError
    from infra.images.like_open_clip import check_size, decode_like_open_clip

    try:
        check_size(data)
        return Image.fromarray(decode_like_open_clip(data))
    except ImageError as error:
        found = f"{error.reason}: {error.message}" if error.reason == Drop.AREA else str(error.reason)
        raise DataError(f"the image of sample {key!r} cannot be decoded", found=found) from error


def _lines(store: Store, path: str) -> tuple[str, ...]:
    """Return the lines of a small text file, without blank ones at its end; none if the file is missing."""
    if not store.exists(path):
        return ()
    text = _decoded(store.read(path), store.locate(path))
    return tuple(line.strip() for line in text.rstrip().split("\n")) if text.strip() else ()


def _decoded(text: bytes, place: str) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8", found=str(error)) from None


def _classes(store: Store) -> tuple[str, ...]:
    """The classes by label. Two may have the same name, as in ImageNet, but none a blank one: labels would shift."""
    classes = _lines(store, "classnames.txt")
    if "" in classes:
        raise DataError(
            f"{store.locate('classnames.txt')} has a class without a name",
            expected="a name in each line, in the order of the labels",
            found=f"line {classes.index('') + 1} of {len(classes)} is blank",
            fix="name the class, or remove the line if it stands for none",
        )
    return classes


def _templates(store: Store) -> tuple[str, ...]:
    path = "zeroshot_classification_templates.txt"
    templates = tuple(line for line in _lines(store, path) if line)
    if without := [line for line in templates if "{c}" not in line]:
        raise DataError(
            f"{store.locate(path)} has a template without a place for the class",
            expected="{c} in each line",
            found=repr(without[0]),
        )
    return templates


def _shards(store: Store, split: str) -> int:
    """The number of shards, as the set says. Raises DataError if it says none, or there is one more."""
    path = f"{split}/nshards.txt"
    text = _decoded(store.read(path), store.locate(path)).strip()
    if not (text.isascii() and text.isdigit()):
        raise DataError(f"{store.locate(path)} is no number of shards", expected="0 or more", found=repr(text[:40]))
    if store.exists(more := f"{split}/{int(text)}.tar"):
        raise DataError(f"there are more shards than {store.locate(path)} says", expected=text, found=more)
    return int(text)


def _image_bytes(raw: dict[str, Any]) -> bytes:
    for extension in IMAGE_EXTENSIONS:
        if extension in raw:
            return bytes(raw[extension])
    raise DataError(
        f"sample {raw['__key__']!r} has no image",
        expected=", ".join(IMAGE_EXTENSIONS),
        found=", ".join(list(raw)[1:6]),
        fix=dotted_name_hint(raw),
    )


def _captions(raw: dict[str, Any]) -> tuple[str, ...]:
    text = _decoded(raw.get("txt", b""), f"the caption of sample {raw['__key__']!r}")
    captions = tuple(stripped for line in text.split("\n") if (stripped := line.strip()))
    if not captions:
        raise DataError(f"sample {raw['__key__']!r} has no caption", expected="txt with a caption per line")
    return captions


def _metadata(raw: dict[str, Any]) -> str:
    """The text of a sample's ``json``, or "". Raises DataError unless it is an object."""
    if "json" not in raw:
        return ""
    text = _decoded(raw["json"], f"the metadata of sample {raw['__key__']!r}")
    try:
        fields = json.loads(text)
    except ValueError as error:
        fields, found = None, str(error)
    else:
        found = type(fields).__name__
    if not isinstance(fields, dict):
        raise DataError(f"the metadata of sample {raw['__key__']!r} is no JSON object", found=found)
    return text
