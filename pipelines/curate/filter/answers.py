"""Answer what rules ask about the whole set, exactly, in passes over few columns; nothing here grows with the set.

First each shard's columns that need measuring, and the values that questions are about, are written to scratch tables,
from which the filter reads them again. Then *lots* of these are counted on the cluster, and the driver adds up.

A quantile is found by narrowing: each pass counts the values between two bounds in 512 bins, with the least and the
largest of each, and goes on with the one bin that holds the wanted rank. So the passes go with the logarithm of the
rows, two or three, and end when a bin holds one value.

Frequent captions are found by hash: each lot counts its own and writes them in partitions, each partition is then added
up by itself. Only what is found frequent is ever in one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.cluster import Limits, run_shards
from infra.formats.shards import shard_name
from infra.rows import counted
from infra.run.context import Context, ShardOutput
from infra.run.manifest import ShardRecord
from infra.run.pieces import Records
from infra.store import Store
from pipelines.curate.filter import texts
from pipelines.curate.filter.columns import numbers
from pipelines.curate.filter.judge import SCRATCH, rows_of, scratch_table
from pipelines.curate.filter.measures import MEASURED
from pipelines.curate.filter.rules import Rule
from pipelines.curate.filter.survey import Frequent, Quantile, Question
from pipelines.layout import Images
from pipelines.tables import concatenated, read_table, with_column

__all__ = ["settled"]

_BINS = 512
_LOTS = 1000  # at most, so that what the driver adds up is bounded
_SHARDS = 16  # of a lot, at least
_PARTITION = 1 << 23  # rows: of hashes, 128 MB

Bin = list[int]  # values, the least and the largest of their keys


def settled(
    rules: Sequence[Rule],
    images: Images,
    selection: Store | None,
    shards: Sequence[tuple[int, str]],
    context: Context,
    limits: Limits,
) -> tuple[Rule, ...]:
    """The rules, each with the answer to its question if it has one."""
    questions = list(dict.fromkeys(question for rule in rules if (question := rule.question())))
    if not questions:
        return tuple(rules)
    names = [(f"measure-{shard_name(shard)}", (shard, path)) for shard, path in shards]
    run_shards(context, names, partial(_measure, rules, questions, images, selection), limits)
    numbers_of_shards = [shard for shard, _ in shards]
    size = max(_SHARDS, math.ceil(len(shards) / _LOTS))
    lots = [numbers_of_shards[start : start + size] for start in range(0, len(shards), size)]

    def count(name: str, work: Callable[..., ShardRecord], specs: Iterable[Any] = lots) -> Records:
        return run_shards(context, [(f"{name}-{lot:05d}", spec) for lot, spec in enumerate(specs)], work, limits)

    answers: dict[Question, Any] = {}
    for number, question in enumerate(questions):
        if isinstance(question, Quantile):
            answers[question] = _quantiles(question, number, context.store, count)
        else:
            answers[question] = _frequent(question, number, context.store, len(lots), count)
    return tuple(rule.settled(answers[question]) if (question := rule.question()) else rule for rule in rules)


def _measure(
    rules: Sequence[Rule],
    questions: Sequence[Question],
    images: Images,
    selection: Store | None,
    spec: tuple[int, str],
    output: ShardOutput,
) -> ShardRecord:
    """Write the scratch table of a shard: measured columns, and a column of values for each question."""
    rows, reasons, errors = rows_of(rules, images, selection, spec)
    table = rows.select([name for name in MEASURED if name in rows.column_names])
    table = with_column(table, "reason", pa.array([reason and str(reason) for reason in reasons], pa.string()))
    for number, question in enumerate(questions):
        if isinstance(question, Quantile):
            values: NDArray[Any] = numbers(rows[question.column])
        else:
            values = texts.folded_hashes(rows["caption"])
        table = with_column(table, f"_{number}", pa.array(values))
    output.write_table(scratch_table(spec[0]), table)
    return output.commit(facts=counted(errors, rows.num_rows))


# --- quantiles --------------------------------------------------------------------------------------------------------


def _quantiles(question: Quantile, number: int, store: Store, count: Callable[..., Records]) -> dict[str, float]:
    """The wanted value of each language, or of all under ""."""
    bounds: dict[str, Bin] | None = None  # by language: wanted rank within the bounds, and the bounds
    found: dict[str, float] = {}
    turn = 0
    while bounds is None or bounds:
        records = count(f"quantile-{number}-{turn}", partial(_count_bins, store, question, number, bounds))
        bins: dict[str, dict[str, Bin]] = {}
        for record in records:
            for language, counts in record.facts["bins"].items():
                into = bins.setdefault(language, {})
                for place, (values, least, most) in counts.items():
                    have = into.get(place, [0, least, most])
                    into[place] = [have[0] + values, min(have[1], least), max(have[2], most)]
        left: dict[str, Bin] = {}
        for language, counts in bins.items():
            total = sum(values for values, _, _ in counts.values())
            rank = _rank(question, total) if bounds is None else bounds[language][0]
            for _, (values, least, most) in sorted(counts.items(), key=lambda item: int(item[0])):
                if rank < values:
                    if least == most:
                        found[language] = _value(least)
                    else:
                        left[language] = [rank, least, most]
                    break
                rank -= values
        bounds, turn = left, turn + 1
    return found


def _rank(question: Quantile, rows: int) -> int:
    """Rank of the wanted value among ``rows`` in ascending order, from 0."""
    taken = max(1, math.ceil(Fraction(str(question.share)) * rows))
    return rows - taken if question.largest else taken - 1


def _count_bins(
    store: Store, question: Quantile, number: int, bounds: dict[str, Bin] | None, shards: list[int], output: ShardOutput
) -> ShardRecord:
    """Count the values of a lot, by language and bin; all in one bin where there are no bounds yet."""
    values, languages = _read(store, shards, number, question.by_language)
    bins: dict[str, dict[str, Bin]] = {}
    for language in sorted(set(languages) if bounds is None else bounds):
        keys = _keys(values[languages == language])
        _, least, most = (0, 0, 2**64 - 1) if bounds is None else bounds[language]
        keys = np.sort(keys[(keys >= np.uint64(least)) & (keys <= np.uint64(most))])
        if not len(keys):
            continue
        width = 2**64 - 1 if bounds is None else (most - least) // _BINS + 1
        places = (keys - np.uint64(least)) // np.uint64(width)
        starts = np.flatnonzero(begins_run(places))
        ends = np.r_[starts[1:], len(keys)]
        bins[language] = {
            str(int(places[start])): [int(end - start), int(keys[start]), int(keys[end - 1])]
            for start, end in zip(starts, ends, strict=True)
        }
    return output.commit(facts={"bins": bins})


def _read(store: Store, shards: Sequence[int], number: int, by_language: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """The values of a question in a lot of shards, without missing ones, and the language of each, "" for all."""
    names = [f"_{number}", *(["caption_language"] if by_language else [])]
    table = concatenated([_scratch(store, shard, names) for shard in shards])
    values = table[f"_{number}"].to_numpy()
    languages = np.full(len(values), "", np.object_)
    if by_language:
        languages = np.array([language or "" for language in table["caption_language"].to_pylist()], np.object_)
    there = ~np.isnan(values)
    return values[there], languages[there]


def _scratch(store: Store, shard: int, names: Sequence[str]) -> pa.Table:
    return read_table(store, scratch_table(shard), names)


def _keys(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Integers in the order of the values: IEEE 754 with the sign turned about; -0 is 0."""
    bits = (values + 0.0).view(np.uint64)
    return np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))


def _value(key: int) -> float:
    bits = key & ~(1 << 63) if key >> 63 else ~key & (2**64 - 1)
    return float(np.array([bits], np.uint64).view(np.float64)[0])


# --- frequent captions ------------------------------------------------------------------------------------------------


def _frequent(
    question: Frequent, number: int, store: Store, lots: int, count: Callable[..., Records]
) -> NDArray[np.uint64]:
    """The sorted hashes of the captions that more than ``question.most`` rows have."""
    records = count(f"measured-{number}", partial(_count_rows, store))
    partitions = max(1, math.ceil(sum(record.facts["rows"] for record in records) / _PARTITION))
    count(f"captions-{number}", partial(_count_captions, store, number, partitions))
    add = partial(_add_captions, store, number, question.most, lots)
    found = count(f"frequent-{number}", add, range(partitions))
    parts = [read_table(store, record.files[0].path)["hash"].to_numpy() for record in found]
    return np.concatenate(parts).astype(np.uint64)


def _count_rows(store: Store, shards: list[int], output: ShardOutput) -> ShardRecord:
    return output.commit(facts={"rows": sum(_scratch(store, shard, ["reason"]).num_rows for shard in shards)})


def _count_captions(store: Store, number: int, partitions: int, shards: list[int], output: ShardOutput) -> ShardRecord:
    """Write how often each caption is in a lot, by hash, a row group for each partition of hashes."""
    name = f"_{number}"
    hashes = np.concatenate([_scratch(store, shard, [name])[name].to_numpy() for shard in shards])
    distinct, counts = np.unique(hashes, return_counts=True)
    edges = np.searchsorted(distinct, _edges(partitions))
    schema = pa.schema([("hash", pa.uint64()), ("rows", pa.int64())])
    with output.open(f"{SCRATCH}/{output.shard}.parquet") as sink, pq.ParquetWriter(sink, schema) as writer:
        for start, end in zip([0, *edges], [*edges, len(distinct)], strict=True):
            writer.write_table(pa.table([distinct[start:end], counts[start:end]], schema=schema))
    return output.commit()


def _edges(partitions: int) -> NDArray[np.uint64]:
    """The first hashes of all partitions but the first."""
    return np.array([2**64 * place // partitions for place in range(1, partitions)], np.uint64)


def _add_captions(store: Store, number: int, most: int, lots: int, partition: int, output: ShardOutput) -> ShardRecord:
    """Write the hashes of one partition that more than ``most`` rows have."""
    parts = []
    for lot in range(lots):
        with store.open(f"{SCRATCH}/captions-{number}-{lot:05d}.parquet") as source, pq.ParquetFile(source) as file:
            parts.append(file.read_row_group(partition))
    table = pa.concat_tables(parts).group_by("hash").aggregate([("rows", "sum")])
    found = np.sort(table.filter(pc.greater(table["rows_sum"], most))["hash"].to_numpy())
    output.write_table(f"answers/{output.shard}.parquet", pa.table({"hash": pa.array(found, pa.uint64())}))
    return output.commit()
