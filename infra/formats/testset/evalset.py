"""A split of a test set, whatever form it lies in, and the family of these forms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter

from infra.config import Choice
from infra.errors import ConfigError, DataError
from infra.formats.testset.images import decode_image, decode_regions
from infra.run.manifest import Artifact
from infra.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image

    from infra.formats.regions import Regions

__all__ = ["SPLITS", "Broken", "EvalSet", "Form", "Packed", "Sample", "SetFiles", "find_sets", "known_forms"]

SPLITS = ("test", "testing", "val", "valid", "validation", "dev", "train", "training")
"""Names by which a file or folder is taken for a split, besides those that are asked for."""

_HIDDEN = (".", "__MACOSX")
_TEXTS = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml")


@dataclass(frozen=True)
class Sample:
    """One image of a test set.

    ``label`` counts from 0; where an image has any number of classes, as in a set of kind multilabel, they are
    ``labels``, in rising order, and ``label`` is -1, as it is in a set with captions. ``captions`` is empty in a set
    with classes; ``metadata`` is its JSON object as text, or "".
    """

    key: str
    image: Image
    label: int
    captions: tuple[str, ...]
    metadata: str = ""
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Packed:
    """A sample whose image is still encoded; no bytes in a set without images.

    ``regions``: members that a detector left of the image, by extension; an image that has them may have no pixels.
    """

    key: str
    image: bytes
    label: int
    captions: tuple[str, ...]
    metadata: str = ""
    labels: tuple[int, ...] = ()
    regions: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def pictured(self) -> bool:
        """False for an image with regions and no pixels."""
        return bool(self.image) or not self.regions

    def decoded(self) -> Image:
        """The image. Raises DataError, naming the sample, if it has no pixels or cannot be decoded."""
        if not self.pictured:
            raise DataError(
                f"sample {self.key!r} has regions and no pixels", expected="an image, or a model that reads regions"
            )
        return decode_image(self.image, self.key)

    def without_image(self) -> Packed:
        """The sample with no bytes of its image, to be kept."""
        return replace(self, image=b"", regions={})


@dataclass(frozen=True)
class Broken:
    """In place of a sample that is not as it must be: ``problem`` in two or three words, ``error`` with its name.

    A form may yield it and go on behind it, so that all that is wrong can be counted; or it raises the error, and what
    is behind in the same shard stays unseen.
    """

    problem: str
    error: DataError


@dataclass(frozen=True)
class SetFiles:
    """The files of a split of a test set: ``paths`` below ``store``, the set's folder, with those that describe it."""

    name: str
    split: str
    store: Store
    paths: Sequence[str]

    @classmethod
    def of(cls, folder: Store, name: str, split: str, paths: Sequence[str]) -> SetFiles:
        """Those of ``paths`` below ``folder``, which has the set ``name``."""
        return cls(name, split, folder.child(name), [path.removeprefix(f"{name}/") for path in paths])


class Form(Choice):
    """A form in which test sets lie in a folder.

    ``layout``: the files expected below the set's folder, for error messages. ``precedence``: of two forms that could
    read a set, the one with the lower number does.
    """

    layout: ClassVar[str] = ""
    precedence: ClassVar[int] = 0

    @abstractmethod
    def find(self, paths: Sequence[str], splits: Collection[str]) -> Mapping[tuple[str, str], Sequence[str]]:
        """The files of each set and split, ``(name, split)``, among ``paths`` below a folder of sets.

        By their names alone: none is read. The name of a set is its folder. ``splits``: names that are splits.
        """

    @abstractmethod
    def open(self, files: SetFiles) -> EvalSet:
        """Read what describes a split of a set. Raises DataError if it cannot be scored as it is."""


@dataclass(frozen=True)
class EvalSet:
    """One split of one test set: what describes it, and how to read its samples."""

    name: str
    split: str
    store: Store  # the set's folder
    kind: str  # one of KINDS
    classes: tuple[str, ...]
    templates: tuple[str, ...]  # empty if the set brings none
    parts: Mapping[int, Any] = field(repr=False)  # what each shard is read from, by number
    read: Callable[[Any], Iterator[Packed | Broken]] = field(repr=False)  # the samples of a part; pickles
    pictured: bool = True  # False: samples are texts alone
    strict: bool = True  # False: what is not as it must be is left out of the samples, and told by left_out

    @classmethod
    def open(cls, artifact: Artifact, name: str, split: str) -> EvalSet:
        """Open the set under ``data/{name}``. Raises ConfigError if the artifact has no such set or split."""
        folder = artifact.store.child("data")
        if artifact.manifest.location is None:
            return cls.at(folder, name, split)
        # Of somebody's folder those files count that were identified, read in the forms that were asked for.
        paths = [file.path.removeprefix("data/") for file in artifact.files("data/")]
        return _open(folder, name, split, paths, _forms_of(artifact))

    @classmethod
    def every(cls, artifact: Artifact) -> list[EvalSet]:
        """All splits of all test sets of an artifact, in order of their names."""
        paths = [file.path.removeprefix("data/") for file in artifact.files("data/")]
        return [cls.open(artifact, name, split) for name, split in find_sets(paths, (), _forms_of(artifact))]

    @classmethod
    def at(cls, folder: Store, name: str, split: str) -> EvalSet:
        """Open the set in the folder ``name`` of ``folder``.

        Raises ConfigError if there is no such set or split, DataError if the set cannot be scored as it is.
        """
        return _open(folder, name, split, folder.paths(name.strip("/")))

    @property
    def retrieval(self) -> bool:
        """True if every caption belongs to its image, so that images and captions can search each other."""
        return self.kind == "retrieval"

    @property
    def captioned(self) -> bool:
        """True if images have captions, right or wrong; False if they have classes."""
        return not (self.kind == "classification" or self.multilabel)

    @property
    def multilabel(self) -> bool:
        """True if an image has any number of classes."""
        return self.kind == "multilabel"

    @property
    def shards(self) -> int:
        return len(self.parts)

    def alone(self, shard: int | None) -> EvalSet:
        """The set with this shard only, or none: little to send to a worker, however many files there are."""
        return replace(self, parts={} if shard is None else {shard: self.parts[shard]})

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample in shard order. Raises DataError naming a sample that cannot be read."""
        for packed in self._every():
            yield Sample(packed.key, packed.decoded(), packed.label, packed.captions, packed.metadata, packed.labels)

    def images(self, places: Collection[int]) -> dict[int, Image]:
        """Return the images at ``places``, counted in the order of iteration; the others are skipped undecoded."""
        wanted = set(places)
        found: dict[int, Image] = {}
        for place, packed in enumerate(self._every()):
            if len(found) == len(wanted):
                break
            if place in wanted:
                found[place] = packed.decoded()
        return found

    def regions(self) -> Iterator[Regions]:
        """Yield the regions of every image, in order. Raises DataError naming a sample that has none."""
        for packed in self._every():
            yield decode_regions(packed.regions, packed.key)

    def encoded(self, shard: int) -> Iterator[tuple[str, bytes]]:
        """Yield key and encoded image of every sample of a shard that has pixels."""
        for packed in self.packed(shard):
            if packed.pictured:
                yield packed.key, packed.image

    def packed(self, shard: int) -> Iterator[Packed]:
        """Yield every sample of a shard. Raises DataError naming one that is not as it must be, of a strict set."""
        for one in self.read(self.parts[shard]):
            if isinstance(one, Packed):
                yield one
            elif self.strict:
                raise one.error

    def left_out(self) -> list[Broken]:
        """Return what stands for the samples that are left out, in order; none of a strict set."""
        parts = () if self.strict else self.parts.values()
        return [one for part in parts for one in self.read(part) if isinstance(one, Broken)]

    def checked(self, shard: int) -> Iterator[Packed | Broken]:
        """Yield every sample of a shard, and what stands for the bad ones; the last, if the rest cannot be read."""
        try:
            yield from self.read(self.parts[shard])
        except DataError as error:
            yield Broken("unreadable from here", error)

    def _every(self) -> Iterator[Packed]:
        samples = 0
        for shard in self.parts:
            for packed in self.packed(shard):
                samples += 1
                yield packed
        if not samples:
            raise DataError(f"test set {self.name!r} is empty", expected="an image at least")


def find_sets(
    paths: Sequence[str], splits: Iterable[str] = (), forms: Sequence[object] = ()
) -> dict[tuple[str, str], tuple[Form, list[str]]]:
    """The form and the files of each set and split among ``paths`` below a folder, by ``(name, split)``.

    With them come the texts that lie directly in a set's folder and describe it. ``splits``: names of splits besides
    the usual ones; ``forms``: tried before all that are known.
    """
    visible = [path for path in paths if not any(part.startswith(_HIDDEN) for part in path.split("/"))]
    known = tuple(dict.fromkeys((*splits, *SPLITS)))
    found: dict[tuple[str, str], tuple[Form, list[str]]] = {}
    taken: set[str] = set()
    for form in known_forms(forms):
        every = form.find(visible, known).items()
        sets = {key: files for key, files in every if key[0] and not _within(key[0], taken)}
        found |= {key: (form, list(files)) for key, files in sets.items()}
        taken |= {name for name, _ in sets}
    described: dict[str, list[str]] = {}
    for path in visible:
        if path.endswith(_TEXTS) and path.rpartition("/")[0] in taken:
            described.setdefault(path.rpartition("/")[0], []).append(path)
    return {key: (form, sorted({*files, *described.get(key[0], ())})) for key, (form, files) in sorted(found.items())}


def _within(name: str, taken: Collection[str]) -> bool:
    """True if a set of that name, or a folder that it lies in, was taken by an earlier form."""
    parts = name.split("/")
    return any("/".join(parts[:count]) in taken for count in range(1, len(parts) + 1))


def known_forms(first: Sequence[object] = ()) -> list[Form]:
    """Forms in the order in which they are tried: those given, then every known one that needs no options."""
    given = [form if isinstance(form, Form) else _made(form) for form in first]
    known = [
        member()
        for member in Form.members().values()
        if not any(field.is_required() for field in member.model_fields.values())
    ]
    members = [form for form in known if isinstance(form, Form) and form not in given]
    return [*given, *sorted(members, key=lambda form: (form.precedence, form.kind))]


def _made(value: object) -> Form:
    """A form from its JSON."""
    return TypeAdapter(Form).validate_python(value)


def _forms_of(artifact: Artifact) -> Sequence[object]:
    """The forms in which somebody's folder is to be read, besides those that are known."""
    contents = artifact.manifest.config.get("contents")
    return contents.get("forms", ()) if isinstance(contents, dict) else ()


def _open(folder: Store, name: str, split: str, paths: Sequence[str], forms: Sequence[object] = ()) -> EvalSet:
    """Open a split of the set ``name``, whose files are among ``paths`` below ``folder``."""
    name, tried = name.strip("/"), known_forms(forms)
    below = [path for path in paths if path.startswith(f"{name}/")]
    form, files = find_sets(below, (split,), tried).get((name, split), (None, []))
    if form is None:
        found = sorted(f"{there}/{one}" for there, one in find_sets(folder.paths(), (split,), tried))
        raise ConfigError(
            f"{folder.url} has no test set {name!r} with split {split!r}",
            expected=f"below {name}/: {', or '.join(one.layout for one in tried if one.layout)}",
            found=f"test sets {', '.join(found) or 'none'}",
        )
    return form.open(SetFiles.of(folder, name, split, files))
