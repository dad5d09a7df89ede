"""The captions of rows: each row's own, or those that dedup has pooled at the image that stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import DataError
from infra.store import Store
from pipelines.curate.filter.texts import language
from pipelines.tables import read_table, table_columns

__all__ = ["ALL", "UNKNOWN", "Texts", "own_captions", "pooled_captions", "read_texts"]

ALL = ""
"""The language of all texts where languages do not matter."""
UNKNOWN = "und"
"""ISO 639-2: undetermined."""


class Texts(NamedTuple):
    """Captions with the number of their row, in order, and their language."""

    rows: NDArray[np.int64]
    texts: Sequence[str | None]
    languages: Sequence[str]


def read_texts(store: Store, path: str, by_language: bool) -> Texts:
    """All captions of a table: those of its column ``captions`` where that holds lists, else the column ``caption``.

    Languages are those of the column ``caption_language``, as a filter writes it, or told from the captions; ALL of
    each if they do not matter.
    """
    wanted = ["caption", "captions", *(["caption_language"] if by_language else [])]
    rows = read_table(store, path, [name for name in table_columns(store, path) if name in wanted])
    pooled = "captions" in rows.column_names and _holds_lists(rows["captions"].type)
    lists = pooled_captions(rows) if pooled else own_captions(rows["caption"])
    parents, texts = pc.list_parent_indices(lists), pc.list_flatten(lists)
    languages = _languages(rows, texts, parents) if by_language else [ALL] * len(texts)
    return Texts(parents.to_numpy().astype(np.int64), texts.to_pylist(), languages)


def _holds_lists(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return bool(pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))


def _languages(rows: pa.Table, texts: pa.Array, parents: pa.Array) -> list[str]:
    """The language of each text: of a row's own caption that of ``caption_language``, else the detected one."""
    known = pa.nulls(len(texts), pa.string())
    if "caption_language" in rows.column_names:
        own, said = (rows[name].cast(pa.string()).combine_chunks() for name in ("caption", "caption_language"))
        known = pc.if_else(pc.equal(texts, own.take(parents)), said.take(parents), known)
    lacking = known.is_null()
    told = pc.replace_with_mask(known, lacking, language(texts.filter(lacking)))
    return [one or UNKNOWN for one in told.to_pylist()]


def pooled_captions(rows: pa.Table) -> pa.ListArray:
    """The captions pooled before, or each row's own. Raises DataError if the column is another one of that name."""
    try:
        lists = rows["captions"].combine_chunks().cast(pa.list_(pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            "the column 'captions' does not hold lists of captions",
            found=str(rows["captions"].type),
            fix="give it another name, or set dedup.captions=own",
        ) from error
    return pc.if_else(lists.is_valid(), lists, own_captions(rows["caption"]))


def own_captions(captions: pa.ChunkedArray) -> pa.ListArray:
    """Each caption as the only one of its row."""
    return pa.ListArray.from_arrays(np.arange(len(captions) + 1, dtype=np.int32), captions.combine_chunks())
