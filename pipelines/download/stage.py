"""From pairs of URL and caption to shards of images: fetched, judged, brought to size, in img2dataset's layout.

Every row attempted is in the shard's Parquet with what became of it, so nobody has to guess why an image is missing;
the tar holds the successes in the order of the rows, whatever order the servers answered in.

With ``retry`` the input is an earlier download instead, and the rows are those of it that failed for such a reason.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from infra.cluster import Limits, run_batches, slots
from infra.config import Input, Runtime, StageConfig
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest, ShardRecord
from infra.schema import Drop
from pipelines.download.verify import Digest, Verify
from pipelines.tables import Images, Slice, cut, funnel, kept_files, read_table, selected
from pipelines.web import Web
from pipelines.web.health import SuccessFloor

if TYPE_CHECKING:
    from infra.store import Store
    from pipelines.download.retry import Pick
    from pipelines.download.shard import Work
    from pipelines.images.resize import Resizing

__all__ = ["Config", "host", "run", "worst"]

ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]

_LOT = 64  # shards one task takes at most: the more, the seldomer it waits for stragglers with nothing else to do
_LOOK_AT = 16  # shards whose hosts' names are tried before the start
_FLOOR_ROWS = 1000  # before their success is judged
_WORST = 20  # failing hosts to name


class Config(StageConfig):
    """Names and meanings are img2dataset's where it has the option."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "pairs": Input("pairs", required=False),
        "images": Input("images", required=False, repeated=True),
    }
    produces: ClassVar[tuple[str, ...]] = ("images",)

    code_version: ClassVar[int] = 3

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
    skip_reencode: bool = Field(False, description="keep the file as served where it needs no work")
    extract_exif: bool = Field(True, description="keep the Exif tags, in column exif")
    compute_hash: Digest = Field("sha256", description="of the bytes served; other than sha256: a column beside it")
    verify: Verify | None = Field(None, description="compare with the list's hashes")
    samples_per_shard: int = Field(1000, gt=1, description="rows per shard, img2dataset's number_sample_per_shard")
    retry: tuple[Drop, ...] = Field(
        (), description="try again what failed for these reasons in the downloads that are the input"
    )
    engine: Literal["clipline", "img2dataset"] = Field(
        "clipline",
        description="img2dataset: its own code on the same shards. It goes to any address, private ones too, asks no "
        "robots.txt and takes bodies of any size, so only for lists you trust",
    )
    web: Web = Field(Web(), description="how to fetch")
    rows_in_flight: Runtime[int] = Field(2048, gt=0, description="rows a worker has under way, most of them waiting")
    resize_threads: Runtime[int] = Field(2, gt=0, description="threads per worker that decode and resize")
    min_success_share: Runtime[float] = Field(
        0.05, ge=0, le=1, description="share of rows that must succeed, after the first 1000, for the stage to go on"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @model_validator(mode="after")
    def _png_compression(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError("encode_quality of a PNG is its compression, 0 to 9")
        return self

    @property
    def resizing(self) -> Resizing:
        from pipelines.images.resize import Resizing

        return Resizing(**{name: getattr(self, name) for name in Resizing.__dataclass_fields__})


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``pairs``, or with ``retry`` the ``images`` of before -> ``data/{shard}.tar``, ``.parquet``, ``_stats.json``."""
    from pipelines.download.shard import Work, work
    from pipelines.web.politeness.actor import shared_limiter

    shards, source = _shards(config, inputs)
    done = context.ledger.read()
    progress = _Progress(config, context, sum(_rows(part) for _, parts in shards for part in parts), done.values())
    with shared_limiter(config.web) as limiter:
        common = Work(config, source, limiter)
        _look_ahead(common, [parts for number, parts in shards if shard_name(number) not in done])
        records = run_batches(
            context,
            [(shard_name(number), (number, parts)) for number, parts in shards],
            partial(work, common),
            config.limits,
            on_done=progress.add,
            size=max(1, min(_LOT, -(-len(shards) // slots(config.limits)))),
        )
    return _finish(records, context)


def _shards(config: Config, inputs: Mapping[str, Artifact]) -> tuple[list[tuple[int, Any]], Store | Images]:
    """Number and rows of each shard, and where the rows are."""
    if config.retry:
        from pipelines.download import retry

        return retry.due(inputs, config.retry, config.samples_per_shard), Images.of(inputs)
    pairs = inputs["pairs"]
    return list(enumerate(cut(kept_files(pairs), config.samples_per_shard))), pairs.store


def _look_ahead(common: Work, shards: list[Any]) -> None:
    """Do names resolve here at all? Raises StageFailed if the resolver fails for those of some shards."""
    from pipelines.web.health import preflight

    spread = shards[:: -(-len(shards) // _LOOK_AT) or 1]
    names = {host(url) for parts in spread for url in common.rows(parts)["url"].to_pylist()}
    preflight(names - {""}, common.config.web).check()


def host(listed: str) -> str:
    """The host of an address as somebody wrote it down; empty if it is none."""
    from pipelines.web.urls import BadUrlError, canonical, host_of

    try:
        return host_of(canonical(listed))
    except BadUrlError:
        return ""


def _rows(part: Slice | Pick) -> int:
    return part.rows if isinstance(part, Slice) else len(part.rows)


class _Progress:
    """How the stage does, as a line and as curves: rates, the share of each outcome, the time it will take."""

    def __init__(self, config: Config, context: Context, rows: int, done: Iterable[ShardRecord]) -> None:
        self._context, self._rows = context, rows
        self._floor = SuccessFloor(config.min_success_share, _FLOOR_ROWS)
        self._funnel = funnel("pairs", [])
        for record in done:
            self._funnel += record.funnel or funnel("pairs", [])
        self._before = self._funnel
        self._hosts: Counter[str] = Counter()
        self._bytes = 0
        self._start = time.monotonic()

    def add(self, record: ShardRecord) -> dict[str, float | str]:
        one = record.funnel or funnel("pairs", [])
        self._funnel += one
        self._bytes += record.facts["bytes"]
        self._hosts.update(record.facts["failing_hosts"])
        if len(self._hosts) > 10_000:
            self._hosts = Counter(dict(self._hosts.most_common(1000)))
        self._floor.add_shard(self._context.ledger, record.shard, one.kept, one.dropped, record.facts["failing_hosts"])
        rows = self._funnel.entered
        seconds = max(time.monotonic() - self._start, 1e-3)
        shares = {"success": self._funnel.kept, **self._funnel.dropped}
        rates = {
            "images_per_s": (self._funnel.kept - self._before.kept) / seconds,
            "MB_per_s": self._bytes / 1e6 / seconds,
        }
        curves = {f"share/{name}": count / rows for name, count in shares.items()}
        left = {"eta_s": (self._rows - rows) * seconds / max(rows - self._before.entered, 1)}
        self._context.metrics(curves | rates | left, step=rows)
        frequent = Counter(self._funnel.dropped).most_common(2)
        errors = ", ".join(f"{name} {count / rows:.0%}" for name, count in frequent)
        hosts = ", ".join(f"{host} {count}" for host, count in self._hosts.most_common(2))
        told = {"errors": errors or "none"} | ({"at": hosts} if hosts else {})
        return {"success": f"{self._funnel.kept / rows:.0%}", **rates, **left, **told}


def worst(failing: Mapping[str, int]) -> dict[str, int]:
    """The hosts that failed most, by the number of rows; of a shard as of the whole."""
    return dict(sorted(failing.items(), key=lambda item: (-item[1], item[0]))[:_WORST])


def _finish(records: Sequence[ShardRecord], context: Context) -> Manifest:
    from pipelines.curate import gallery

    first = [record.shard for record in records[: gallery.LOOK_AT]]
    rows = [selected(read_table(context.store, f"data/{name}.parquet"), int(name)) for name in first]
    gallery.figure(context, context.store, "downloaded", rows)
    total = sum((record.funnel for record in records if record.funnel), funnel("pairs", []))
    failing: Counter[str] = Counter()
    for record in records:
        failing.update(record.facts["failing_hosts"])
    facts = {"bytes": sum(record.facts["bytes"] for record in records), "failing_hosts": worst(failing)}
    share = total.kept / total.entered if total.entered else 0.0
    return context.finish(list(records), funnel=total, metrics={"success_share": share}, facts=facts)
