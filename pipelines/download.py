"""From pairs of URL and caption to shards of images: fetched, judged, brought to size, in img2dataset's layout.

Every row attempted is in the shard's Parquet with what became of it, so nobody has to guess why an image is missing;
the tar holds the successes in the order of the rows, whatever order the servers answered in.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from infra.cluster import Limits, run_shards
from infra.config import Config as Base
from infra.config import Runtime
from infra.context import Context, ShardOutput
from infra.manifest import Artifact, Manifest, ShardRecord
from infra.schema import Drop, Status, images_schema
from infra.shards import sample_key, shard_name, write_triple
from infra.storage import Store
from pipelines.fetch import Fetcher, FetchError, Web
from pipelines.tables import Slice, cut, funnel, kept_files, read_slices, read_table, selected

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.images import Resized, Resizing

__all__ = ["Config", "Fetched", "fetch_all", "members", "run", "tabulate"]

ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]


class Config(Base):
    """Names and meanings are img2dataset's where it has the option."""

    image_size: int = Field(256, gt=0, description="side to resize to, pixels")
    resize_mode: ResizeMode = Field(
        "keep_ratio",
        description="keep_ratio: shorter side to image_size; center_crop: then cut square; "
        "keep_ratio_largest: longer side; border: then fill up with white; no: leave as it is",
    )
    resize_only_if_bigger: bool = Field(True, description="never enlarge an image")
    min_image_size: int = Field(0, ge=0, description="smallest shorter side of the original, pixels")
    max_image_area: int = Field(100_000_000, gt=0, description="largest original, square pixels")
    max_aspect_ratio: float = Field(20.0, ge=1, description="longer by shorter side of the original, at most")
    encode_format: Literal["jpg", "png", "webp"] = Field("jpg", description="format of the stored images")
    encode_quality: int = Field(95, ge=0, le=100, description="JPEG or WebP quality; for PNG the compression, 0 to 9")
    samples_per_shard: int = Field(1000, gt=1, description="rows per shard, img2dataset's number_sample_per_shard")
    web: Web = Field(Web(), description="how to fetch")
    rows_in_flight: Runtime[int] = Field(256, gt=0, description="rows a worker has under way, most of them waiting")
    resize_threads: Runtime[int] = Field(2, gt=0, description="threads per worker that decode and resize")
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @model_validator(mode="after")
    def _png_compression(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError("encode_quality of a PNG is its compression, 0 to 9")
        return self

    @property
    def resizing(self) -> Resizing:
        from pipelines.images import Resizing

        return Resizing(**{name: getattr(self, name) for name in Resizing.__dataclass_fields__})


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``pairs`` -> ``data/{shard}.tar``, ``.parquet``, ``_stats.json``."""
    pairs = inputs["pairs"]
    shards = list(enumerate(cut(kept_files(pairs), config.samples_per_shard)))
    counter = _Counter(context)
    records = run_shards(
        context,
        [(shard_name(shard), (shard, slices)) for shard, slices in shards],
        partial(_work, config, pairs.store),
        config.limits,
        on_done=counter.add,
    )
    return _finish(records, context)


class _Counter:
    """Curves of the stage: the share of rows that succeeded and of each failure, over rows attempted."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._funnel = funnel("pairs", [])
        for record in context.ledger.read().values():
            self._funnel += record.funnel or funnel("pairs", [])

    def add(self, record: ShardRecord) -> None:
        self._funnel += record.funnel or funnel("pairs", [])
        shares = {"success": self._funnel.kept, **self._funnel.dropped}
        values = {f"share/{name}": count / self._funnel.entered for name, count in shares.items()}
        self._context.metrics(values, step=self._funnel.entered)


def _finish(records: list[ShardRecord], context: Context) -> Manifest:
    from pipelines import gallery

    first = [record.shard for record in records[: gallery.LOOK_AT]]
    rows = [selected(read_table(context.store, f"data/{name}.parquet"), int(name)) for name in first]
    gallery.figure(context, context.store, "downloaded", rows)
    total = sum((record.funnel for record in records if record.funnel), funnel("pairs", []))
    share = total.kept / total.entered if total.entered else 0.0
    facts = {"bytes": sum(record.facts["bytes"] for record in records)}
    return context.finish(records, funnel=total, metrics={"success_share": share}, facts=facts)


# --- one shard --------------------------------------------------------------------------------------------------------


class Fetched(NamedTuple):
    """What became of one URL: an image, or the reason and the message there is none."""

    image: Resized | None = None
    sha256: str | None = None
    size: int = 0
    status: Status = Status.SUCCESS
    reason: Drop | None = None
    message: str | None = None


def _work(config: Config, store: Store, spec: tuple[int, tuple[Slice, ...]], output: ShardOutput) -> ShardRecord:
    shard, slices = spec
    rows = read_slices(store, slices)
    fetched = asyncio.run(fetch_all(rows["url"].to_pylist(), config))
    table = tabulate(rows, fetched, shard, config.samples_per_shard)
    write_triple(output, shard, members(table, fetched, config.encode_format), table)
    reasons = table["reason"].to_pylist()
    return output.commit(funnel("pairs", reasons), {"bytes": sum(outcome.size for outcome in fetched)})


async def fetch_all(urls: Sequence[str], config: Config) -> list[Fetched]:
    """What became of each URL, in order. One that is asked for several times is fetched once."""
    outcomes: dict[str, Fetched] = {}
    todo = iter(dict.fromkeys(urls))
    options = config.resizing
    loop = asyncio.get_running_loop()

    async def work_off() -> None:
        for url in todo:
            try:
                response = await fetcher.get(url, kind="image")
            except FetchError as error:
                outcomes[url] = _not_fetched(error)
            else:
                outcomes[url] = await loop.run_in_executor(pool, _resized, response.body, options)

    with ThreadPoolExecutor(config.resize_threads, thread_name_prefix="resize") as pool:
        async with Fetcher(config.web) as fetcher, asyncio.TaskGroup() as group:
            for _ in range(min(config.rows_in_flight, len(urls))):
                group.create_task(work_off())
    return [outcomes[url] for url in urls]


def _not_fetched(error: FetchError) -> Fetched:
    """In img2dataset's words where it has some."""
    message = str(error)
    if error.reason is Drop.OPT_OUT and not error.detail.startswith("robots.txt"):
        message = "Use of image disallowed by X-Robots-Tag directive"
    elif error.reason is Drop.HTTP_ERROR and error.detail in _PHRASES:
        message = f"HTTP Error {error.detail}: {_PHRASES[error.detail]}"
    return Fetched(status=Status.FAILED_TO_DOWNLOAD, reason=error.reason, message=message)


_PHRASES = {str(status.value): status.phrase for status in HTTPStatus}


def _resized(body: bytes, options: Resizing) -> Fetched:
    from pipelines.images import ImageError, resize

    sha256 = hashlib.sha256(body).hexdigest()
    try:
        return Fetched(resize(body, options), sha256, len(body))
    except ImageError as error:
        return Fetched(None, sha256, len(body), Status.FAILED_TO_RESIZE, error.reason, error.message)


def tabulate(rows: pa.Table, fetched: Sequence[Fetched], shard: int, samples_per_shard: int) -> pa.Table:
    """img2dataset's table of a shard: the columns of ``rows``, then what became of each, then our ``reason``."""
    import pyarrow as pa

    images = [outcome.image for outcome in fetched]
    values: dict[str, list[Any]] = {
        "key": [sample_key(shard, index, samples_per_shard) for index in range(len(fetched))],
        "status": [outcome.status for outcome in fetched],
        "error_message": [outcome.message for outcome in fetched],
        "sha256": [outcome.sha256 for outcome in fetched],
        "reason": [outcome.reason for outcome in fetched],
    }
    for name in ("width", "height", "original_width", "original_height", "exif"):
        values[name] = [image and getattr(image, name) for image in images]
    schema = images_schema(rows.schema).append(pa.field("reason", pa.string()))
    columns = [
        rows[name] if name in rows.column_names else pa.array(values[name], schema.field(name).type)
        for name in schema.names
    ]
    return pa.table(columns, schema=schema.remove_metadata())


def members(table: pa.Table, fetched: Sequence[Fetched], extension: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of what goes into the tar: image, metadata and caption of each success."""
    for row, outcome in zip(table.to_pylist(), fetched, strict=True):
        if outcome.image is not None:
            key = row["key"]
            yield f"{key}.{extension}", outcome.image.data
            yield f"{key}.json", json.dumps(row, indent=4).encode()
            yield f"{key}.txt", row["caption"].encode()
