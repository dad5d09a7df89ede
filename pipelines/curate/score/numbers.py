"""The arithmetic of scores. Products of all with all are made in parts, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.formats.vectors import Floats, Vectors
from infra.hashing import hash64
from pipelines.curate.vectors import chunks

if TYPE_CHECKING:
    from pipelines.curate.score.scores import Arrays, NegCLIPLoss

__all__ = ["batches", "concatenated", "drawn", "largest", "neg_clip_loss", "quadratic"]

_ROWS = 512  # of a product at once


def concatenated(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """``parts``, at least one, one after the other."""
    return np.concatenate(list(parts))


def batches(rows: Vectors, score: NegCLIPLoss, total: int) -> dict[str, NDArray[Any]]:
    """The pairs of ``rows`` that are in each of the batches of ``score``, and the share that was drawn."""
    share = min(1.0, score.batch / max(total, 1))
    found: dict[str, NDArray[Any]] = {"share": np.array([share])}
    for number in range(score.rounds if share < 1 else 1):
        member = drawn(rows, f"{score.seed}/{number}", share)
        found |= {f"images{number}": rows.pairs[member], f"texts{number}": rows.texts[member]}
    return found


def drawn(rows: Vectors, seed: str, share: float) -> NDArray[np.bool_]:
    """Mask of a sample of about ``share`` of the captions, drawn by hashes of row id and number in the row."""
    if share >= 1:
        return np.ones(len(rows.texts), np.bool_)
    starts = np.searchsorted(rows.row_of, np.arange(len(rows.uids)))
    numbers = np.arange(len(rows.texts)) - starts[rows.row_of]
    names = (f"{seed}/{rows.uids[row]}/{number}" for row, number in zip(rows.row_of, numbers, strict=True))
    limit = int(share * 2**64)
    return np.fromiter((hash64(name) < limit for name in names), np.bool_, len(rows.texts))


def neg_clip_loss(rows: Vectors, known: Arrays, score: NegCLIPLoss) -> Floats:
    """See :class:`~pipelines.curate.score.scores.NegCLIPLoss`."""
    share, rounds = float(known["share"][0]), sum(name.startswith("images") for name in known)
    own = rows.similarities / np.float32(score.temperature)
    total = np.zeros(len(own))
    for number in range(rounds):
        alone = ~drawn(rows, f"{score.seed}/{number}", share)  # a pair that was drawn is in the batch already
        for queries, others in ((rows.pairs, known[f"texts{number}"]), (rows.texts, known[f"images{number}"])):
            total += _log_sum_exp(queries, others, own, alone, score.temperature)
    values: NDArray[np.floating] = rows.similarities - score.temperature / 2 * total / rounds
    return values.astype(np.float32)


def largest(queries: Floats, references: NDArray[Any]) -> Floats:
    """The largest absolute cosine of each query with a reference: (n,)."""
    found = np.zeros(len(queries), np.float32)
    for part in chunks(len(references)):
        block = np.asarray(references[part])
        for rows in chunks(len(queries), _ROWS):
            np.maximum(found[rows], np.abs(queries[rows] @ block.T).max(axis=1), out=found[rows])
    return found


def quadratic(queries: Floats, gram: NDArray[np.float64]) -> Floats:
    """The root of ``x' gram x`` of each query: (n,)."""
    squares = np.einsum("nd,nd->n", queries @ gram, queries)
    values: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0))
    return values.astype(np.float32)


def _log_sum_exp(
    queries: Floats, others: NDArray[Any], own: Floats, alone: NDArray[np.bool_], temperature: float
) -> NDArray[np.float64]:
    """log sum exp of each query's cosines over the temperature, with all ``others`` and, where ``alone``, its own."""
    result = np.empty(len(queries))
    for rows in chunks(len(queries), _ROWS):
        logits = queries[rows] @ np.asarray(others).T / np.float32(temperature)
        most = np.maximum(logits.max(axis=1, initial=-np.inf), own[rows])
        total = np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64)
        result[rows] = most + np.log(total + np.where(alone[rows], np.exp(own[rows] - most), 0))
    return result
