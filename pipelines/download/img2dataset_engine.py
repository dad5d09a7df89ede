"""A shard through img2dataset itself, for comparison and for those who want exactly its behaviour.

Its downloader, resizer and writer do the work, with its statuses and messages; we add our reason to each row and bring
rows and tar into the order of the input, which img2dataset leaves to the order of answers. It has none of our guard: it
resolves names itself, follows redirects anywhere, ignores robots.txt, and limits neither size nor time of a body. Only
the URL itself is checked beforehand: http or https, and no address that is not public.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import ConfigError
from infra.extras import require
from infra.formats.shards import SHARD_DIGITS, read_samples, sample_key, shard_name, write_triple
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.schema import Drop, Status, images_schema
from pipelines.download.config import Config
from pipelines.download.hosts import failing_hosts
from pipelines.download.verify import MISMATCH
from pipelines.layout import funnel
from pipelines.web import Web
from pipelines.web.guard import is_public
from pipelines.web.urls import BadUrlError, canonical, host_of

__all__ = ["download_shard", "reason_of", "refusal"]

_DIRECTIVES = ["noai", "noimageai", "noindex", "noimageindex"]  # its default
_LOST = "lost by img2dataset"  # the message of a row that ended in an exception, which img2dataset only prints


def download_shard(config: Config, rows: pa.Table, shard: int, output: ShardOutput) -> ShardRecord:
    """Download ``rows`` as shard number ``shard``. Raises ConfigError for a verification it lacks."""
    if config.verify and (config.verify.mode, config.verify.hash) != ("strict", config.compute_hash):
        raise ConfigError(
            "img2dataset cannot verify this hash",
            expected="verify.mode 'strict' and verify.hash the same as compute_hash",
            found=f"mode {config.verify.mode!r}, hash {config.verify.hash!r}, compute_hash {config.compute_hash!r}",
        )
    refusals = [refusal(url, config.web) for url in rows["url"].to_pylist()]
    with tempfile.TemporaryDirectory(prefix="clipline-img2dataset-") as folder:
        _download(config, _input(config, rows, refusals), shard, folder)
        table = _table(config, rows, refusals, pq.read_table(f"{folder}/{shard_name(shard)}.parquet"), shard)
        with Path(folder, f"{shard_name(shard)}.tar").open("rb") as tar:
            write_triple(output, shard, _members(tar), table)
        # The tar's size stands in for the bytes served, which img2dataset does not report.
        size = Path(folder, f"{shard_name(shard)}.tar").stat().st_size
    facts = {"bytes": size, "failing_hosts": failing_hosts(table)}
    return output.commit(funnel("pairs", table["reason"].to_pylist()), facts)


def refusal(url: str, web: Web) -> tuple[Drop, str] | None:
    """The reason and message if ``url`` must not go to a fetcher without a guard; None if it may."""
    try:
        host = host_of(canonical(url))
    except BadUrlError as error:
        return Drop.BAD_URL, f"{Drop.BAD_URL}: {error}"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        private = host == "localhost" or host.endswith(".localhost")
    else:
        private = not is_public(address) and not any(
            address in ipaddress.ip_network(network) for network in web.allow_private
        )
    return (Drop.REFUSED, f"{Drop.REFUSED}: not public") if private else None


# --- to img2dataset ---------------------------------------------------------------------------------------------------


def _input(config: Config, rows: pa.Table, refusals: list[tuple[Drop, str] | None]) -> pa.Table:
    """img2dataset's input. A refused URL becomes an empty one, which fails at once, so that keys stay in step."""
    urls = ["" if why else url for url, why in zip(rows["url"].to_pylist(), refusals, strict=True)]
    rows = rows.set_column(rows.column_names.index("url"), "url", pa.array(urls, pa.string()))
    if config.verify:
        rows = rows.append_column(config.verify.hash, pa.array(config.verify.listed(rows), pa.string()))
    return rows.replace_schema_metadata(None)


def _download(config: Config, rows: pa.Table, shard: int, folder: str) -> None:
    """Write img2dataset's three files of the shard into ``folder``."""
    downloader, resizer, writer = _modules()
    feather = f"{folder}/{shard}.feather"
    with pa.OSFile(feather, "wb") as sink, pa.ipc.new_file(sink, rows.schema) as out:
        out.write_table(rows)
    downloader.Downloader(
        sample_writer_class=writer.WebDatasetSampleWriter,
        resizer=resizer.Resizer(
            image_size=config.image_size,
            resize_mode=config.resize_mode,
            resize_only_if_bigger=config.resize_only_if_bigger,
            encode_quality=config.encode_quality,
            encode_format=config.encode_format,
            skip_reencode=config.skip_reencode,
            min_image_size=config.min_image_size,
            max_image_area=config.max_image_area,
            max_aspect_ratio=config.max_aspect_ratio,
        ),
        thread_count=config.web.concurrency,
        save_caption="caption" in rows.column_names,
        extract_exif=config.extract_exif,
        output_folder=folder,
        column_list=rows.column_names,
        timeout=config.web.connect_s,
        number_sample_per_shard=config.samples_per_shard,
        oom_shard_count=SHARD_DIGITS,
        compute_hash=config.compute_hash,
        verify_hash_type=config.verify.hash if config.verify else None,
        encode_format=config.encode_format,
        retries=config.web.retries,
        user_agent_token=config.web.agent,
        disallowed_header_directives=_DIRECTIVES if config.web.obey_opt_out else None,
    ).download_shard((shard, feather))


def _modules() -> tuple[Any, Any, Any]:
    require(["img2dataset"], "engine=img2dataset")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it sends a request
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations
        from img2dataset import downloader, resizer, writer
    logging.getLogger("exifread").setLevel(logging.CRITICAL)  # as its main does
    return downloader, resizer, writer


# --- and back ---------------------------------------------------------------------------------------------------------


def _table(
    config: Config, rows: pa.Table, refusals: list[tuple[Drop, str] | None], theirs: pa.Table, shard: int
) -> pa.Table:
    """img2dataset's table with every row of the input, in that order, and our ``reason``."""
    known = {row["key"]: row for row in theirs.to_pylist()}
    schema = images_schema(rows.schema)
    for name in ("reason", "image_opt_out", "digital_source"):  # it does not tell the last two
        schema = schema.append(pa.field(name, pa.string()))
    if config.compute_hash != "sha256":
        schema = schema.append(pa.field(config.compute_hash, pa.string()))
    added = schema.names[rows.num_columns :]
    values: dict[str, list[Any]] = {name: [] for name in added}
    for index, why in enumerate(refusals):
        key = sample_key(shard, index, config.samples_per_shard)
        row = known.get(key, {"status": Status.FAILED_TO_RESIZE, "error_message": _LOST})
        if why:
            row = {"status": Status.FAILED_TO_DOWNLOAD, "error_message": why[1], "reason": why[0]}
        elif row["status"] != Status.SUCCESS:
            row["reason"] = reason_of(row["status"], row["error_message"])
        for name in added:
            values[name].append(key if name == "key" else row.get(name))
    columns = [rows[name] for name in rows.column_names]
    columns += [pa.array(values[name], schema.field(name).type) for name in added]
    return pa.table(columns, schema=schema.remove_metadata())


def reason_of(status: str, message: str) -> Drop:
    """Our reason for one of img2dataset's messages, which are the texts of arbitrary exceptions."""
    for pattern, reason in _REASONS:
        if re.search(pattern, message, re.IGNORECASE):
            return reason
    return Drop.DECODE if status == Status.FAILED_TO_RESIZE else Drop.CONNECTION


_REASONS = (
    (MISMATCH, Drop.HASH_MISMATCH),
    (r"^HTTP Error 30\d", Drop.REFUSED),  # a redirect loop, or one to another scheme
    (r"^HTTP Error", Drop.HTTP_ERROR),
    (r"X-Robots-Tag", Drop.OPT_OUT),
    (r"timed out|timeout", Drop.TIMEOUT),
    (r"unknown url type|no host given|control characters|nonnumeric port|codec can't", Drop.BAD_URL),
    (r"^image too small", Drop.TOO_SMALL),
    (r"^image area too large", Drop.AREA),
    (r"^aspect ratio too large", Drop.ASPECT),
)


def _members(tar: Any) -> Iterator[tuple[str, bytes]]:  # noqa: ANN401 - a binary file
    samples = sorted(read_samples(tar), key=lambda sample: str(sample["__key__"]))
    for sample in samples:
        key = sample.pop("__key__")
        for extension, data in sample.items():
            yield f"{key}.{extension}", data
