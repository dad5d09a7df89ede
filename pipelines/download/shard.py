"""The workers' part of a download: many rows in flight at once, across the border between one shard and the next.

A shard is only as fast as its slowest server; a worker that waited for the last rows of each would mostly wait. So the
next shard's rows start as soon as there is room in flight, and each shard is written when its own rows are done. What
is fetched early waits on disk (:class:`Spool`): memory depends on the rows in flight, not on the servers nor on the
size of a shard.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pyarrow as pa

from infra.formats.shards import sample_key, write_triple
from infra.garbage import few_collections
from infra.images.errors import ImageError
from infra.rows import counted, row_error
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.schema import Drop, Status, images_schema
from infra.store import Store
from infra.store.spool import Spool, Ticket
from pipelines.download import img2dataset_engine
from pipelines.download.config import Config
from pipelines.download.hosts import failing_hosts
from pipelines.download.retry import read_picks
from pipelines.download.verify import MISMATCH, Hash, hash_of
from pipelines.images.provenance import provenance
from pipelines.images.resize import Resizing, resize
from pipelines.layout import Images, funnel
from pipelines.tables import RESERVED, read_slices
from pipelines.web import FetchError
from pipelines.web.fetcher import Fetcher
from pipelines.web.policy.opt_outs import joined
from pipelines.web.urls import shown

if TYPE_CHECKING:
    from pipelines.web.politeness.client import LimiterClient

__all__ = ["Downloader", "Outcome", "Work", "members", "tabulate", "work"]

_UNFORESEEN = f"{Drop.UNFORESEEN}: "
_IMAGE = ("width", "height", "original_width", "original_height", "exif", "sha256")
_RIGHTS = ("image_opt_out", "digital_source")


class Outcome(NamedTuple):
    """The result of one URL: an image in the spool, or the reason and the message why there is none.

    ``size``: bytes served. ``hashes``: those wanted besides sha256, by kind. Width and height in pixels, upright.
    ``image_opt_out``: the words by which the image, its headers or its host withhold it from AI use.
    ``digital_source``: how the image says it was made (``pipelines.images.provenance``).
    """

    ticket: Ticket | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None
    sha256: str | None = None
    hashes: Mapping[str, str] = MappingProxyType({})
    image_opt_out: str | None = None
    digital_source: str | None = None
    size: int = 0
    status: Status = Status.SUCCESS
    reason: Drop | None = None
    message: str | None = None


@dataclass(frozen=True)
class Work:
    """Settings and source of all shards of a download. ``source``: the store of the pairs, or the images to retry."""

    config: Config
    source: Store | Images
    limiter: LimiterClient | None = None

    def rows(self, parts: Any) -> pa.Table:  # noqa: ANN401 - picks of images, slices of a store
        """Read the rows to download; of pairs a filter has chosen, without what it knew of their images."""
        if isinstance(self.source, Images):
            return read_picks(self.source, parts)
        rows = read_slices(self.source, parts)
        return rows.drop_columns([name for name in rows.column_names if name in RESERVED])


Batch = Sequence[tuple[tuple[int, Any], ShardOutput]]


def work(common: Work, batch: Batch) -> Iterator[ShardRecord]:
    """Download each ``((number, rows), output)`` and yield its record once it is committed."""
    if common.config.engine == "img2dataset":
        for (number, parts), output in batch:
            yield img2dataset_engine.download_shard(common.config, common.rows(parts), number, output)
        return
    with few_collections(), asyncio.Runner() as runner:
        records = _records(common, batch)

        async def next_record() -> ShardRecord | None:
            return await anext(records, None)

        while (record := runner.run(next_record())) is not None:
            yield record


async def _records(common: Work, batch: Batch) -> AsyncIterator[ShardRecord]:
    async with Downloader(common.config, common.limiter) as downloader:
        starting = asyncio.Lock()  # held while a shard's rows are read and started, so that earlier shards go first
        shards = [asyncio.create_task(_shard(common, downloader, starting, one)) for one in batch]
        try:
            for done in asyncio.as_completed(shards):
                yield await done
        finally:
            for task in shards:
                task.cancel()
            await asyncio.gather(*shards, return_exceptions=True)


async def _shard(
    common: Work, downloader: Downloader, starting: asyncio.Lock, one: tuple[tuple[int, Any], ShardOutput]
) -> ShardRecord:
    (number, parts), output = one
    with Spool() as spool:
        async with starting:
            rows = await asyncio.to_thread(common.rows, parts)
            started = await downloader.start(rows["url"].to_pylist(), spool)
        outcomes = [await outcome for outcome in started]
        return await asyncio.to_thread(_commit, common.config, rows, outcomes, number, spool, output)


def resizing(config: Config) -> Resizing:
    """The part of the configuration that the resizer takes."""
    return Resizing(**{name: getattr(config, name) for name in Resizing.__dataclass_fields__})


class Downloader:
    """Fetches and resizes the images of one worker: an async context manager around its connections and threads."""

    def __init__(self, config: Config, limiter: LimiterClient | None = None) -> None:
        self._config = config
        self._resizing = resizing(config)
        self._hashes = _hashes(config)
        self._room = asyncio.Semaphore(config.rows_in_flight)
        self._fetcher = Fetcher(config.web, limiter=limiter)
        self._pool = ThreadPoolExecutor(config.resize_threads, thread_name_prefix="resize")
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._open.enter_context(self._pool)
        await self._open.enter_async_context(self._fetcher)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def start(self, urls: Sequence[str], spool: Spool) -> list[asyncio.Task[Outcome]]:
        """Start each URL once there is room; return their tasks, in order. A URL listed twice is fetched once."""
        tasks: dict[str, asyncio.Task[Outcome]] = {}
        try:
            for url in urls:
                if url not in tasks:
                    await self._room.acquire()
                    tasks[url] = asyncio.create_task(self._download(url, spool))
        except BaseException:
            for task in tasks.values():
                task.cancel()
            raise
        return [tasks[url] for url in urls]

    async def _download(self, url: str, spool: Spool) -> Outcome:
        loop = asyncio.get_running_loop()
        try:
            async with self._fetcher.fetch(url, "image") as response:
                work = partial(_resized, response.body, self._resizing, self._hashes, self._config.web.obey_opt_out)
                outcome, image = await loop.run_in_executor(self._pool, work)
        except FetchError as error:
            return _not_fetched(error)
        except Exception as error:
            if error is self._fetcher.failure:  # of all rows, not of this one
                raise
            return _unforeseen(Outcome(status=Status.FAILED_TO_DOWNLOAD), error)
        else:
            outcome = outcome._replace(image_opt_out=joined(response.opt_out, outcome.image_opt_out or "") or None)
            return outcome if image is None else outcome._replace(ticket=spool.put(image))
        finally:
            self._room.release()


def _not_fetched(error: FetchError) -> Outcome:
    """The outcome of a failed fetch, with img2dataset's message where it has one."""
    message = str(error)
    words = error.detail if error.reason is Drop.OPT_OUT else None
    if words and words.lower().startswith("x-robots-tag"):
        message = "Use of image disallowed by X-Robots-Tag directive"
    elif error.reason is Drop.HTTP_ERROR and error.detail in _PHRASES:
        message = f"HTTP Error {error.detail}: {_PHRASES[error.detail]}"
    return Outcome(status=Status.FAILED_TO_DOWNLOAD, reason=error.reason, message=message, image_opt_out=words)


def _unforeseen(outcome: Outcome, error: Exception) -> Outcome:
    """Return the outcome of a row ended by an unexpected error: a reason of its own, which the funnel shows.

    Raises ``error`` again if it is not the row's.
    """
    return outcome._replace(reason=Drop.UNFORESEEN, message=_UNFORESEEN + row_error(error))


_PHRASES = {str(status.value): status.phrase for status in HTTPStatus}


def _hashes(config: Config) -> tuple[Hash, ...]:
    """The hashes to compute of each image besides its sha256."""
    wanted: list[Hash] = [config.compute_hash, *([config.verify.hash] if config.verify else [])]
    return tuple(dict.fromkeys(kind for kind in wanted if kind != "sha256"))


def _resized(
    body: bytes, options: Resizing, kinds: tuple[Hash, ...], obey_opt_out: bool
) -> tuple[Outcome, bytes | None]:
    outcome = Outcome(sha256=hashlib.sha256(body).hexdigest(), size=len(body))
    try:
        source, words = provenance(body)
        outcome = outcome._replace(digital_source=source or None, image_opt_out=words or None)
        if words and obey_opt_out:
            message = f"{Drop.OPT_OUT}: {words}"
            return outcome._replace(status=Status.FAILED_TO_DOWNLOAD, reason=Drop.OPT_OUT, message=message), None
        image = resize(body, options)
        hashes: dict[str, str] = {kind: hash_of(body, kind) for kind in kinds}
    except ImageError as error:
        return outcome._replace(status=Status.FAILED_TO_RESIZE, reason=error.reason, message=error.message), None
    except Exception as error:  # noqa: BLE001 - see infra.rows
        return _unforeseen(outcome._replace(status=Status.FAILED_TO_RESIZE), error), None
    return outcome._replace(
        width=image.width,
        height=image.height,
        original_width=image.original_width,
        original_height=image.original_height,
        exif=image.exif,
        hashes=hashes,
    ), image.data


# --- outcomes to files ------------------------------------------------------------------------------------------------


def _commit(
    config: Config, rows: pa.Table, outcomes: list[Outcome], shard: int, spool: Spool, output: ShardOutput
) -> ShardRecord:
    table = tabulate(rows, outcomes, shard, config)
    table = without_tokens(table)
    write_triple(output, shard, members(table, outcomes, spool, config.encode_format), table)
    unforeseen = [str(one.message).removeprefix(_UNFORESEEN) for one in outcomes if one.reason is Drop.UNFORESEEN]
    facts = {"bytes": sum(outcome.size for outcome in outcomes), "failing_hosts": failing_hosts(table)}
    facts |= counted(unforeseen)
    return output.commit(funnel("pairs", table["reason"].to_pylist()), facts)


def without_tokens(table: pa.Table) -> pa.Table:
    """Mask secret parameters in the URLs of successful rows; failed rows keep theirs, which a retry needs."""
    urls, done = table["url"].to_pylist(), table["status"].to_pylist()
    masked = [
        shown(url) if status == Status.SUCCESS and "=" in url else url for url, status in zip(urls, done, strict=True)
    ]
    position = table.schema.get_field_index("url")
    return table.set_column(position, table.schema.field(position), pa.array(masked, pa.string()))


def tabulate(rows: pa.Table, outcomes: Sequence[Outcome], shard: int, config: Config) -> pa.Table:
    """img2dataset's table of a shard: the columns of ``rows``, its columns of the outcome, then our ``reason``."""
    values: dict[str, list[Any]] = {}
    extra = [pa.field(name, pa.string()) for name in ("reason", *_RIGHTS)]
    if config.verify is not None:
        mismatches = config.verify.mismatches(rows, [_hash(outcome, config.verify.hash) for outcome in outcomes])
        if config.verify.mode == "warn":
            values["hash_mismatch"] = mismatches
            extra.append(pa.field("hash_mismatch", pa.bool_()))
        else:
            outcomes = [_mismatched(one) if wrong else one for one, wrong in zip(outcomes, mismatches, strict=True)]
    values |= {
        "key": [sample_key(shard, index, config.samples_per_shard) for index in range(len(outcomes))],
        "status": [outcome.status for outcome in outcomes],
        "error_message": [outcome.message for outcome in outcomes],
    }
    for name in (*_IMAGE, "reason", *_RIGHTS):
        values[name] = [getattr(outcome, name) for outcome in outcomes]
    if config.compute_hash != "sha256":
        values[config.compute_hash] = [_hash(outcome, config.compute_hash) for outcome in outcomes]
        extra.append(pa.field(config.compute_hash, pa.string()))
    schema = images_schema(rows.schema)
    for field in extra:
        schema = schema.append(field)
    given = set(rows.column_names)
    columns = [
        rows[name] if name in given else pa.array(values[name], schema.field(name).type) for name in schema.names
    ]
    return pa.table(columns, schema=schema.remove_metadata())


def _hash(outcome: Outcome, kind: Hash) -> str | None:
    return outcome.sha256 if kind == "sha256" else outcome.hashes.get(kind)


def _mismatched(outcome: Outcome) -> Outcome:
    """The outcome of an image other than the one listed. What failed before that keeps its own reason."""
    if outcome.status != Status.SUCCESS:
        return outcome
    return Outcome(
        sha256=outcome.sha256,
        image_opt_out=outcome.image_opt_out,
        digital_source=outcome.digital_source,
        size=outcome.size,
        status=Status.FAILED_TO_DOWNLOAD,
        reason=Drop.HASH_MISMATCH,
        message=MISMATCH,
    )


def members(table: pa.Table, outcomes: Sequence[Outcome], spool: Spool, extension: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the tar's members: image, metadata and caption of each success."""
    for row, outcome in zip(table.to_pylist(), outcomes, strict=True):
        if row["status"] == Status.SUCCESS and outcome.ticket is not None:
            key = row["key"]
            yield f"{key}.{extension}", spool.get(outcome.ticket)
            yield f"{key}.json", json.dumps(row, indent=4, default=str).encode()  # a list's own column may hold dates
            if row.get("caption"):
                yield f"{key}.txt", row["caption"].encode()
