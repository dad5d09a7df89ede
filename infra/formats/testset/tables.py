"""Rows of tables as samples: which columns hold images, labels and captions, and what a row must be like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from infra.errors import DataError
from infra.formats.testset.evalset import Broken, Packed
from infra.formats.testset.texts import CAPTIONS, CLASSES, LABELS, read_classes, read_kind, readable
from infra.store import Store

__all__ = ["Columns", "arrow_errors", "find_columns", "rows"]

_IMAGES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo")


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns: ``label`` or ``captions`` is None; ``split``: a column with each row's split."""

    image: str
    label: str | None
    captions: str | None
    split: str | None
    classes: tuple[str, ...]
    kind: str  # of the set

    @property
    def names(self) -> list[str]:
        return [name for name in (self.image, self.label, self.captions, self.split) if name is not None]


def find_columns(store: Store, place: str, schema: pa.Schema, wanted: Mapping[str, str | None]) -> Columns:
    """Find the columns of a table of the set in ``store``. ``wanted``: names of image, label and captions, where given.

    Raises DataError if there is none for a part that a test set needs, or more than one.
    """
    # What the library `datasets` notes of a column counts before its type and name.
    features = _features(schema)
    typed = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    names_of = {name: found for name, feature in features.items() if (found := _class_names(feature)) is not None}
    choose = partial(_choose, place, schema, wanted)
    binary = [name for name in schema.names if _is_binary(schema.field(name).type)]
    images = [name for name in schema.names if _is_encoded(schema.field(name).type)]
    images += [name for name in binary if typed.get(name) == "Image"]
    image = choose("image", images or [name for name in binary if name.lower() in _IMAGES])
    label = choose("label", list(names_of), LABELS)
    texts = [name for name in schema.names if _is_text(schema.field(name).type) and name.lower() in CAPTIONS]
    captions = choose("captions", texts)
    if image is None or (label is None and captions is None):
        raise DataError(
            f"{place} has no column of {'images' if image is None else 'labels or captions'}",
            expected="images with a ClassLabel, or with texts named caption",
            found=", ".join(f"{field.name} ({field.type})" for field in schema)[:300],
        )
    split = "split" if "split" in schema.names and _is_text(schema.field("split").type) else None
    # With both, the set's own word decides; else classes are rarer than texts that happen to be there.
    by_caption = label is None or wanted.get("captions") is not None
    several = label is not None and _is_list(schema.field(label).type)
    kind = read_kind(store, "retrieval" if by_caption else "multilabel" if several else "classification")
    labelled = kind in ("classification", "multilabel")
    needed = label if labelled else captions
    if needed is None:
        raise DataError(
            f"{place} does not fit its dataset_type.txt", expected=f"columns for {kind}", found=", ".join(schema.names)
        )
    if not labelled:
        return Columns(image, None, captions, split, (), kind)
    number = schema.field(needed).type.value_type if several else schema.field(needed).type
    if not pa.types.is_integer(number) or several != (kind == "multilabel"):
        raise DataError(
            f"the labels of {place} are no numbers",
            expected="lists of integers" if kind == "multilabel" else "integers",
            found=f"{label} ({schema.field(label).type})",
        )
    return Columns(image, label, None, split, _classes(store, place, names_of.get(needed, ())), kind)


def _choose(
    place: str,
    schema: pa.Schema,
    wanted: Mapping[str, str | None],
    part: str,
    likely: Sequence[str],
    known: Sequence[str] = (),
) -> str | None:
    """The column of ``part``: the one wanted, the one likely, or the one of a known name. Raises DataError for two."""
    if (name := wanted.get(part)) is not None:
        if name not in schema.names:
            raise DataError(f"{place} has no column {name!r}", found=", ".join(schema.names))
        return name
    found = list(likely) or [name for name in schema.names if name.lower() in known]
    if len(found) > 1:
        form = "saved_dataset" if place.endswith(".arrow") else "hub_parquet"
        raise DataError(
            f"{place} has several columns that could be the {part}",
            found=", ".join(found),
            fix=f'name it: adopt\'s contents.forms=[{{"kind": "{form}", "{part}": "{found[0]}"}}]',
        )
    return found[0] if found else None


def _classes(store: Store, place: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes: those of the set's own file, or else ``names``, which the column has."""
    classes = read_classes(store) or tuple(readable(str(name)) for name in names)
    if not classes or (names and len(classes) != len(names)):
        raise DataError(
            f"the classes of {place} have no names" if not classes else f"{CLASSES} does not fit {place}",
            expected=f"{len(names)} names" if names else f"{store.locate(CLASSES)}, or a ClassLabel in the table",
            found="neither" if not classes else str(len(classes)),
        )
    return classes


def rows(
    store: Store, path: str, columns: Columns, split: str, first: int, batches: Callable[[], Iterator[pa.RecordBatch]]
) -> Iterator[Packed | Broken]:
    """The samples of a file's ``batches``, whose rows are numbered from ``first``. Raises DataError for a bad file."""
    place, row = store.locate(path), first
    with arrow_errors(place):
        for batch in batches():
            for values in batch.select(columns.names).to_pylist():
                if columns.split is None or values[columns.split] == split:
                    yield _sample(values, columns, f"{path}:{row}", place)
                row += 1


@contextmanager
def arrow_errors(place: str) -> Iterator[None]:
    """Raise Arrow's errors as DataError that names the file."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{place} is missing", expected="every file that its list names") from None
        raise DataError(
            f"{place} cannot be read as a table",
            found=str(error)[:200],
            fix="was it fetched without its content? a Git LFS pointer has some 130 bytes: git lfs pull",
        ) from error


def _sample(values: Mapping[str, Any], columns: Columns, key: str, place: str) -> Packed | Broken:
    image = values[columns.image]
    data = image.get("bytes") if isinstance(image, dict) else image
    if not data:
        path = image.get("path") if isinstance(image, dict) else None
        error = DataError(
            f"row {key.rpartition(':')[2]} of {place} has no image",
            expected=f"the bytes of the image in column {columns.image}",
            found=f"only the path {path}" if path else "null",
            fix="embed the files: save the data set again where they are" if path else "",
        )
        return Broken("no image", error)
    if columns.captions is not None:
        given = values[columns.captions]
        listed = [given] if isinstance(given, str) else given or ()
        texts = tuple(text.strip() for text in listed if text and text.strip())
        if not texts:
            error = DataError(f"row {key.rpartition(':')[2]} of {place} has no caption", expected="a text in each row")
            return Broken("no caption", error)
        return Packed(key, data, -1, texts)
    label = values[columns.label or ""]
    labels = label if columns.kind == "multilabel" else [label]
    if labels is None or not all(one is not None and 0 <= one < len(columns.classes) for one in labels):
        error = DataError(
            f"row {key.rpartition(':')[2]} of {place} has no valid label",
            expected=f"0 to {len(columns.classes) - 1} in column {columns.label}",
            found=f"{label}{', as where labels are kept secret' if label == -1 else ''}",
        )
        return Broken("no valid label", error)
    if columns.kind == "multilabel":
        return Packed(key, data, -1, (), labels=tuple(sorted(set(labels))))
    return Packed(key, data, label, ())


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Features of the columns as the library ``datasets`` writes them in the schema's metadata."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> Sequence[str] | None:  # noqa: ANN401 - JSON
    """The names of a ClassLabel, alone or as the items of a list; None for another type."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        return feature.get("names") or ()
    return _class_names(feature.get("feature"))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_encoded(kind: pa.DataType) -> bool:
    """True for struct<bytes, path>, as ``datasets`` keeps images."""
    return bool(pa.types.is_struct(kind)) and "bytes" in [kind.field(place).name for place in range(kind.num_fields)]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
