"""Flatten what the captions talk about: MetaCLIP's rule (Xu et al. 2023, algorithm 1), last before sharding.

The web shows a few things millions of times and most things seldom. Each caption is matched against a list of
entries (words and phrases); an entry with more than ``t`` captions keeps each with probability ``t / count``, a rarer
one keeps all; a caption stays if any entry it holds keeps it, and goes if it holds none.

Entries are the user's, or those words and phrases of the captions themselves that are frequent enough.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from infra.cluster import Limits, run_shards
from infra.config import Input, Runtime, StageConfig
from infra.errors import DataError
from infra.figures import png
from infra.formats.shards import shard_name
from infra.hashing import hash64
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.tables import funnel, read_table, selection_shards, write_selection

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["Config", "Matcher", "entries_of", "keep_probabilities", "run", "spaced", "uniform"]

ENTRIES = "data/entries.txt"


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "selection": Input("selection"),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    t: int = Field(
        20_000, gt=0, description="captions an entry may have before it is thinned out; MetaCLIP's is for 400M pairs"
    )
    seed: int = Field(0, description="of the draws")
    metadata: tuple[str, ...] | str | None = Field(
        None,
        description="the entries, words or phrases as they stand in captions, or the path of a text file with one a "
        "line; none: those of the captions themselves",
    )
    min_count: int = Field(
        5, gt=0, description="captions a word or phrase must be in to become an entry, without metadata"
    )
    min_pmi: float = Field(
        3.0, description="mutual information that makes two neighbouring words an entry, bits, without metadata"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @field_validator("metadata")
    @classmethod
    def _readable(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        if isinstance(value, str) and not Path(value).is_file():
            raise ValueError("no such file")
        return value

    def identity(self) -> dict[str, Any]:
        """A file of entries counts by its content, wherever it lies."""
        values = super().identity()
        if isinstance(self.metadata, str):
            values["metadata"] = {"sha256": hashlib.sha256(Path(self.metadata).read_bytes()).hexdigest()}
        return values


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` -> a selection; dropped rows tell the ``keep_probability`` they had."""
    import numpy as np
    import pyarrow as pa

    selection = inputs["selection"]
    shards = selection_shards(selection)
    entries = _entries(config, selection.store, shards)
    context.output.write(ENTRIES, "".join(f"{entry}\n" for entry in entries).encode(), rows=len(entries))
    records = run_shards(
        context,
        [(shard_name(shard), (shard, path)) for shard, path in shards],
        partial(_match, selection.store, context.store),
        config.limits,
    )
    matches = [read_table(context.store, f"data/matches-{record.shard}.parquet")["entries"] for record in records]
    before = sum((_counts(part, len(entries)) for part in matches), np.zeros(len(entries), np.int64))
    after, total = np.zeros_like(before), funnel("images", [])
    for (shard, path), part in zip(shards, matches, strict=True):
        rows = read_table(selection.store, path)
        chances = keep_probabilities(part, before, config.t)
        reasons = _decide(rows["uid"].to_pylist(), chances, config.seed)
        total += write_selection(context.output, shard, rows, reasons, {"keep_probability": pa.array(chances)})
        after += _counts(part.filter(pa.array([reason is None for reason in reasons], pa.bool_())), len(entries))
    if before.any():
        context.figure("entries", _figure(before, after, config.t))
    facts = {
        "entries": len(entries),
        "entries_found": int((before > 0).sum()),
        "entries_over_t": int((before > config.t).sum()),
    }
    return context.finish(records, funnel=total, facts=facts)


# --- entries ----------------------------------------------------------------------------------------------------------


def _entries(config: Config, store: Store, shards: Sequence[tuple[int, str]]) -> list[str]:
    """Distinct and in order, so that equal lists give equal results."""
    if config.metadata is None:
        captions = (text for _, path in shards for text in read_table(store, path, ["caption"])["caption"].to_pylist())
        return entries_of(captions, config.min_count, config.min_pmi)
    lines = (
        Path(config.metadata).read_text("utf-8").splitlines() if isinstance(config.metadata, str) else config.metadata
    )
    entries = sorted({" ".join(line.split()) for line in lines} - {""})
    if not entries:
        raise DataError(
            "the metadata holds no entry", expected="a word or phrase a line", found=repr(config.metadata)[:200]
        )
    return entries


def entries_of(captions: Iterable[str], min_count: int, min_pmi: float) -> list[str]:
    """Words that ``min_count`` captions hold, and pairs of neighbours that go together.

    Pairs count by their pointwise mutual information, log2(p(a b) / (p(a) p(b))), over the captions' words.
    """
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    holding: Counter[str | tuple[str, str]] = Counter()  # captions, where the others count occurrences
    for caption in captions:
        found = [word for word in spaced(caption).split() if any(map(str.isalpha, word))]
        words.update(found)
        pairs.update(pairwise(found))
        holding.update({*found, *pairwise(found)})
    total, total_pairs = words.total(), pairs.total()

    def together(pair: tuple[str, str]) -> float:
        return math.log2(pairs[pair] * total * total / (total_pairs * words[pair[0]] * words[pair[1]]))

    frequent = [word for word in words if holding[word] >= min_count]
    phrases = [" ".join(pair) for pair in pairs if holding[pair] >= min_count and together(pair) >= min_pmi]
    return sorted({*frequent, *phrases})


# --- matching ---------------------------------------------------------------------------------------------------------

_PUNCTUATION = re.compile(r"([,.;:?!`])")


def spaced(text: str) -> str:
    """MetaCLIP's form of a text: words and punctuation marks between spaces; the case stays."""
    return " " + _PUNCTUATION.sub(r" \1 ", text).replace("\t", " ").replace("\n", " ") + " "


class Matcher:
    """Finds which entries a text holds as whole words, all of them in one pass (Aho and Corasick)."""

    def __init__(self, entries: Sequence[str]) -> None:
        from ahocorasick_rs import AhoCorasick

        self._automaton = AhoCorasick([f" {entry} " for entry in entries]) if entries else None

    def __call__(self, text: str) -> list[int]:
        """The places of the entries found in the list of entries, each once, in order."""
        if self._automaton is None:
            return []
        found = self._automaton.find_matches_as_indexes(spaced(text), overlapping=True)
        return sorted({entry for entry, _, _ in found})


@lru_cache(maxsize=1)  # half a million entries take a second to build; a worker does many shards
def _matcher(entries: bytes) -> Matcher:
    return Matcher(entries.decode().splitlines())


def _match(selection: Store, own: Store, spec: tuple[int, str], output: ShardOutput) -> ShardRecord:
    """``data/matches-{shard}.parquet``: the entries that each row's caption holds, in the order of the rows."""
    import pyarrow as pa

    shard, path = spec
    matcher = _matcher(own.read(ENTRIES))
    found = [matcher(caption) for caption in read_table(selection, path, ["caption"])["caption"].to_pylist()]
    table = pa.table({"entries": pa.array(found, pa.list_(pa.int32()))})
    output.write_table(f"data/matches-{shard_name(shard)}.parquet", table)
    return output.commit()


# --- the rule ---------------------------------------------------------------------------------------------------------


def _counts(matches: pa.ChunkedArray, entries: int) -> NDArray[np.int64]:
    """How many captions hold each entry."""
    import numpy as np
    import pyarrow.compute as pc

    return np.bincount(pc.list_flatten(matches).to_numpy(), minlength=entries).astype(np.int64)


def keep_probabilities(matches: pa.ChunkedArray, counts: NDArray[np.int64], t: int) -> NDArray[np.float64]:
    """The chance of each caption to stay: 1 - prod(1 - p_e) over its entries e, p_e = t / max(count_e, t)."""
    import numpy as np
    import pyarrow.compute as pc

    p = t / np.maximum(counts, t)
    with np.errstate(divide="ignore"):  # log(0) for entries that keep everything: minus infinity is meant
        log_loss = np.log1p(-p)
    rows = pc.list_parent_indices(matches).to_numpy()
    entries = pc.list_flatten(matches).to_numpy()
    return np.asarray(-np.expm1(np.bincount(rows, log_loss[entries], minlength=len(matches))))


def _decide(uids: Sequence[str], chances: NDArray[np.float64], seed: int) -> list[str | None]:
    return [
        (Drop.NO_MATCH.value if chance == 0 else None if uniform(seed, uid) < chance else Drop.BALANCED_AWAY.value)
        for uid, chance in zip(uids, chances.tolist(), strict=True)
    ]


def uniform(seed: int, uid: str) -> float:
    """A row's own draw from [0, 1): the same in whichever shard and order it comes."""
    return hash64(f"{seed}/{uid}") / 2**64


def _figure(before: NDArray[np.int64], after: NDArray[np.int64], t: int) -> bytes:
    """Captions per entry against the entry's rank, both logarithmic."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for counts, label, colour in ((before, "before", "#8c959f"), (after, "after", "#0969da")):
        ranked = np.sort(counts[counts > 0])[::-1]
        axes.loglog(np.arange(1, len(ranked) + 1), ranked, label=label, color=colour, linewidth=2)
    axes.axhline(t, color="#cf222e", linewidth=1, linestyle="--", label=f"t = {t:,}")
    axes.set(xlabel="entry, by rank", ylabel="captions", title="Captions per entry")
    axes.grid(alpha=0.2, which="both")
    axes.legend(frameon=False)
    return png(figure, dpi=110)
