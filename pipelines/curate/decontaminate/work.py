"""The work of decontamination: look for each row of some shards among the test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import DataError
from infra.formats.shards import shard_name
from infra.rows import counted, row_error
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.curate import gallery
from pipelines.curate.decontaminate.config import Config
from pipelines.curate.decontaminate.index import Found, Index, TestShard
from pipelines.curate.dedup.rows import known_signatures, signatures_path
from pipelines.curate.dedup.signatures import Signature, signature
from pipelines.curate.embedded import input_rows, vector_places
from pipelines.curate.vectors import gathered
from pipelines.layout import Images, read_images
from pipelines.tables import with_column, write_selection

__all__ = ["look_through"]

_SAMPLES = gallery.COUNT // 2  # of a shard, each beside its nearest test image


def look_through(
    config: Config,
    inputs: Mapping[str, Artifact],
    store: Store,
    tests: Sequence[TestShard],
    batch: Sequence[tuple[tuple[int, str], ShardOutput]],
) -> Iterator[ShardRecord]:
    """Write the selection of each shard."""
    index = Index.read(config, store, len(tests))
    for (number, path), output in batch:
        yield _shard(config, inputs, index, tests, number, input_rows(inputs, number, path), output)


def _shard(
    config: Config,
    inputs: Mapping[str, Artifact],
    index: Index,
    tests: Sequence[TestShard],
    number: int,
    rows: pa.Table,
    output: ShardOutput,
) -> ShardRecord:
    uids = rows["uid"].to_pylist()
    known = _known(inputs, number)
    unknown = [row for row, uid in enumerate(uids) if uid not in known]
    images = read_images(
        Images.of(inputs), rows.select(["shard", "key"]).take(pa.array(unknown, pa.int64())).to_pylist()
    )
    image_of = dict(zip(unknown, images, strict=True))
    errors: list[str] = []
    made = [
        (known[uid], None) if uid in known else _hashed(config, image_of[row], errors) for row, uid in enumerate(uids)
    ]
    near = index.near([one.all_keys if one else () for one, _ in made])
    answers = [_nearest(index, one, reason, *those, errors) for (one, reason), those in zip(made, near, strict=True)]
    found = [one for one, _, _ in answers]
    reasons: list[str | None] = [reason for _, reason, _ in answers]
    facts = {"capped": sum(capped for *_, capped in answers), "hashed": len(unknown), "without_vector": 0}

    if "embeddings" in inputs:
        places, cosines = _by_cosine(config, inputs, index, number, rows)
        rows = with_column(rows, "test_cosine", pa.array(cosines, from_pandas=True))
        facts["without_vector"] = int(np.isnan(cosines).sum())
        for row in np.flatnonzero(cosines >= config.cosine).tolist():
            found[row] = found[row] or Found(int(places[row]))

    names: list[str | None] = [None] * rows.num_rows
    samples = []
    for row, one in enumerate(found):
        if one is not None:
            shard, key = int(index.shards[one.place]), index.names[one.place].as_py()
            names[row], reasons[row] = tests[shard].name(key), Drop.CONTAMINATED.value
            samples.append([rows["uid"][row].as_py(), rows["key"][row].as_py(), shard, key])
    distances = pa.array([one and one.distance for one in found], pa.int32())
    notes = {"nearest_test": pa.array(names, pa.string()), "test_distance": distances}
    account = write_selection(output, number, rows, reasons, notes)
    return output.commit(account, {**facts, "samples": samples[:_SAMPLES], **counted(errors)})


def _known(inputs: Mapping[str, Artifact], number: int) -> dict[str, Signature]:
    """The signatures of a shard's rows that dedup made, by ``uid``."""
    made = inputs.get("signatures")
    return known_signatures(made.store, number) if made and made.files(signatures_path(number)) else {}


def _hashed(config: Config, image: bytes | None, errors: list[str]) -> tuple[Signature | None, str | None]:
    """The signature of a row's image, or the reason why it has none."""
    if image is None:
        return None, Drop.MISSING.value
    try:
        return signature(image, crops=config.crops, mirrored=config.mirrored), None
    except DataError:
        return None, Drop.DECODE.value
    except Exception as error:  # noqa: BLE001 - see infra.rows
        errors.append(row_error(error))
        return None, Drop.UNFORESEEN.value


def _nearest(
    index: Index,
    one: Signature | None,
    reason: str | None,
    places: NDArray[Any],
    bits: NDArray[Any],
    errors: list[str],
) -> tuple[Found | None, str | None, bool]:
    """The test image at ``places`` that a row shows, the reason why it has none to show, and if too many were near."""
    if one is None or not len(places):
        return None, reason, False
    try:
        found, capped = index.nearest(one, places, bits)
    except Exception as error:  # noqa: BLE001 - see infra.rows
        errors.append(row_error(error))
        return None, Drop.UNFORESEEN.value, False
    return found, None, capped


def _by_cosine(
    config: Config, inputs: Mapping[str, Artifact], index: Index, number: int, rows: pa.Table
) -> tuple[NDArray[Any], NDArray[Any]]:
    """For each row the nearest test image by cosine, and the cosine, NaN for rows without a vector."""
    uids = set(rows["uid"].to_pylist())
    vectors = gathered(inputs["embeddings"], config.embedding, [shard_name(number)], uids)
    own = vector_places(rows, vectors)
    there = own >= 0
    place, cosine = np.full(rows.num_rows, -1), np.full(rows.num_rows, np.nan, np.float32)
    place[there], cosine[there] = index.by_cosine(vectors.images[own[there]])
    return place, cosine
