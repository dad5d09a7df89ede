"""A test set as a model sees it, which is all that a task gets: vectors of images and texts, labels, owners."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.embed.config import NAME, folder
from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet
from infra.formats.vectors import read_arrays, read_vectors
from infra.run.manifest import Artifact

if TYPE_CHECKING:
    from PIL.Image import Image

    from infra.captioning.config import Decoding
    from infra.encoder import Captioner, Encoder, Matcher
    from infra.formats.regions import Regions

__all__ = ["Embedded", "open_embedded"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def _no_matcher() -> Matcher:
    """Raise ConfigError: nothing was given to load a fusion encoder from."""
    raise ConfigError("the model is needed to read images and texts together", expected="the input 'model'")


def _no_captioner() -> Captioner:
    """Raise ConfigError: nothing was given to load a writer of captions from."""
    raise ConfigError("the model is needed to write captions", expected="the input 'model'")


@dataclass(frozen=True)
class Embedded:
    """The n images of a split of a test set, in its order, with their m captions or their labels.

    Caption i reads ``captions[text_of[i]]``, whose vector is ``texts[text_of[i]]``, and belongs to image
    ``image_of[i]``. Captions of the same words have one vector, so they score equal to the last bit.
    """

    examples: EvalSet
    keys: list[str]
    labels: Ints  # (n,), -1 in a set with captions, or with any number of classes an image
    image_vectors: Floats  # (n, d), unit rows; zeros of an image without pixels, and in a set of texts alone
    captions: list[str]  # distinct
    texts: Floats  # (len(captions), d), unit rows
    text_of: Ints  # (m,)
    image_of: Ints  # (m,), in rising order
    metadata: list[str]  # what each image's json says, as text; "" if it has none
    logit_scale: float  # turns cosines into logits
    source: Artifact = field(repr=False)
    encoder: Callable[[], Encoder] = field(repr=False)  # loads the model
    labels_of_images: list[list[int]] = field(default_factory=list)  # the classes of each, in a multilabel set
    matcher: Callable[[], Matcher] = field(default=_no_matcher, repr=False)  # loads its fusion encoder
    captioner: Callable[[], Captioner] = field(default=_no_captioner, repr=False)  # loads what writes captions
    beyond_context: NDArray[np.bool_] | None = None  # (m,), captions that the model's context is too short for
    long_captions: str = "cut"  # what became of them
    prompts: Artifact | None = field(default=None, repr=False)  # files with prompts, instead of the set's own

    @property
    def classes(self) -> tuple[str, ...]:
        return self.examples.classes

    @property
    def distinct_classes(self) -> list[str]:
        """The names of the classes, with the label where two have the same, as ImageNet's cranes."""
        times = Counter(self.classes)
        return [f"{name} ({label})" if times[name] > 1 else name for label, name in enumerate(self.classes)]

    @cached_property
    def pictured(self) -> bool:
        """False if there are images without pixels, of which there is no vector."""
        return bool(self.image_vectors.any(axis=1).all())

    @property
    def images(self) -> Floats:
        """The vector of each image: (n, d), unit rows. Raises DataError if one has none."""
        if not self.pictured:
            key = self.keys[int((~self.image_vectors.any(axis=1)).argmax())]
            raise DataError(
                f"there is no vector of sample {key!r} of {self.examples.name}",
                expected="an image with pixels",
                found="regions alone, or a text",
                fix="evaluate it with a task that reads image and text together",
            )
        return self.image_vectors

    @cached_property
    def classifier(self) -> Floats:
        """A unit vector for each class, from the set's own prompts: (classes, d). Raises DataError if it has none."""
        path = f"data/{self.examples.name}/classes.npz"
        if not self.classes or not self.source.files(path):
            raise DataError(
                f"test set {self.examples.name!r} has no classes",
                expected="a classification set with classnames.txt",
                found=f"a set for {self.examples.kind}" if self.examples.captioned else "no class in classnames.txt",
                fix="evaluate it with a task for sets with captions" if self.examples.captioned else "",
            )
        vectors: Floats = read_arrays(self.source.store, path)[f"{NAME}_txt"]
        return vectors

    @cached_property
    def shows(self) -> NDArray[np.bool_]:
        """Mask of the classes that each image of a multilabel set shows: (n, classes)."""
        shows = np.zeros((len(self.keys), len(self.classes)), np.bool_)
        for row, labels in zip(shows, self.labels_of_images, strict=True):
            row[labels] = True
        return shows

    @property
    def categories(self) -> dict[str, NDArray[np.bool_]]:
        """Masks of the images (n,) by the ``category`` in their json, sorted; empty if none has one."""
        of = [json.loads(text).get("category") if text else None for text in self.metadata]
        names = sorted({name for name in of if isinstance(name, str)})
        return {name: np.array([one == name for one in of]) for name in names}

    def check_kind(self, kind: str, without: str) -> None:
        """Raise DataError for a set of another kind, which is ``without`` what such a set has."""
        if self.examples.kind != kind:
            raise DataError(
                f"test set {self.examples.name!r} has no {without}",
                expected=f"{kind} in dataset_type.txt",
                found=self.examples.kind,
            )

    def check_one_label(self) -> None:
        """Raise DataError unless every image has one class."""
        if self.examples.kind != "classification":
            raise DataError(
                f"test set {self.examples.name!r} has no single class for each image",
                expected="a classification set",
                found=f"a set for {self.examples.kind}",
            )

    def column(self, name: str) -> list[Any]:
        """Field ``name`` of each image's json; ``a.b`` of an object inside, ``a.0`` of a list.

        Raises DataError for an image without.
        """
        rows = [json.loads(text) if text else {} for text in self.metadata]
        values = [_inside(fields, name) for fields in rows]
        for key, fields, value in zip(self.keys, rows, values, strict=True):
            if value is None:
                raise DataError(
                    f"sample {key!r} of {self.examples.name} has no {name!r} in its metadata",
                    expected=f"a json with {name!r} for every image",
                    found=", ".join(sorted(fields)) or "no json",
                )
        return values

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Encode ``texts`` that are not the set's own: (len(texts), d). This loads the model."""
        return self.encoder().encode_texts(texts)

    def pictures(self) -> Iterator[Image]:
        """Decode the images, in order."""
        return (sample.image for sample in self.examples)

    def seen_by(self, model: Matcher) -> Iterator[Image] | Iterator[Regions]:
        """Return what ``model`` reads of each image, in order. Raises DataError for an image that has nothing of it."""
        return self.pictures() if model.regions is None else self.examples.regions()

    def write_captions(self, decoding: Decoding) -> list[str]:
        """Let the model write a caption of each image."""
        return self.captioner().write(self.pictures(), decoding)

    def captions_of_images(self) -> list[list[str]]:
        """The captions of each image."""
        found: list[list[str]] = [[] for _ in self.keys]
        for image, text in zip(self.image_of.tolist(), self.text_of.tolist(), strict=True):
            found[image].append(self.captions[text])
        return found

    def match(self, images: Ints, texts: Ints) -> Floats:
        """The fusion model's logits that image ``images[i]`` and caption ``texts[i]`` (of the distinct) match: (p,)."""
        order = np.argsort(images, kind="stable")
        asked: list[list[str]] = [[] for _ in self.keys]
        for image, text in zip(images[order].tolist(), texts[order].tolist(), strict=True):
            asked[image].append(self.captions[text])
        logits = np.empty(len(images), np.float32)
        model = self.matcher()
        logits[order] = model.match(self.seen_by(model), asked)
        return logits

    def split(self, name: str) -> Embedded:
        """Another split of the same set. Raises ConfigError if it is not embedded."""
        examples = replace(self.examples, split=name, parts={})  # its images may not be there
        other = open_embedded(self.source, examples, self.encoder, self.matcher)
        return replace(other, prompts=self.prompts)


def open_embedded(
    source: Artifact, examples: EvalSet, encoder: Callable[[], Encoder], matcher: Callable[[], Matcher] = _no_matcher
) -> Embedded:
    """Read the vectors of a test set from an artifact of the stage ``embed``.

    Raises ConfigError if they are not in it.
    """
    place = folder(examples.name, examples.split)
    shards = [file.path.removeprefix("data/").removesuffix(".npz") for file in source.files(f"data/{place}/", ".npz")]
    if not shards:
        known = {file.path.removeprefix("data/").rpartition("/")[0] for file in source.files("data/", ".parquet")}
        raise ConfigError(
            f"{source.manifest.name} has no vectors of {place}",
            found=", ".join(sorted(known)) or "none",
            fix="name the set in the field sets and the split in the field splits of the stage that embeds",
        )
    parts = [read_vectors(source.store, shard, NAME) for shard in shards]
    tables = [_rows(source, shard) for shard in shards]
    read = [text for table in tables for given in table["texts"].to_pylist() for text in given]

    # Equal captions of different shards get one vector, too: that of the first.
    place_of: dict[str, int] = {}
    text_of = np.array([place_of.setdefault(text, len(place_of)) for text in read], np.int64)
    _, first = np.unique(text_of, return_index=True)
    counts = np.concatenate([table["captions"].to_numpy() for table in tables])
    return Embedded(
        examples=examples,
        keys=[uid for part in parts for uid in part.uids],
        labels=np.concatenate([table["label"].to_numpy() for table in tables]),
        image_vectors=np.concatenate([part.images for part in parts]),
        captions=list(place_of),
        texts=np.concatenate([part.texts for part in parts])[first],
        text_of=text_of,
        image_of=np.repeat(np.arange(len(counts)), counts),
        metadata=[text for table in tables for text in table["metadata"].to_pylist()],
        logit_scale=source.manifest.facts["logit_scale"],
        source=source,
        encoder=encoder,
        labels_of_images=[labels for table in tables for labels in table["labels"].to_pylist()],
        matcher=matcher,
        beyond_context=np.array([one for table in tables for one in _flat(table["beyond_context"])], np.bool_),
        long_captions=source.manifest.config["long_captions"]["kind"],
    )


def _inside(fields: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    """The value at ``path`` within ``fields``; None if there is none."""
    if isinstance(fields, dict) and path in fields:
        return fields[path]
    first, dot, rest = path.partition(".")
    if dot and isinstance(fields, dict):
        return _inside(fields.get(first), rest)
    if isinstance(fields, list) and first.isdigit() and int(first) < len(fields):
        return _inside(fields[int(first)], rest) if dot else fields[int(first)]
    return None


def _flat(lists: Any) -> list[bool]:  # noqa: ANN401 - a pyarrow.ChunkedArray of lists
    return [one for row in lists.to_pylist() for one in row]


def _rows(source: Artifact, shard: str) -> Any:  # noqa: ANN401 - a pyarrow.Table
    with source.store.open(f"data/{shard}.parquet") as file:
        return pq.read_table(file, columns=["label", "labels", "captions", "texts", "beyond_context", "metadata"])
