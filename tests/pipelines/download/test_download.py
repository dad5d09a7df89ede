"""Download against a server on loopback, and its output against the readers it is written for."""

import gc
import io
import json
import math
import re
import socket
import struct
import zlib

import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from loopback import answer, serving
from PIL import Image

from infra.errors import ConfigError, StageFailed, TransientError
from infra.events import Event, Metrics, Progress
from infra.formats.shards import read_samples, read_tar, write_triple
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, File
from infra.schema import pairs_schema
from infra.store import LocalStore
from infra.store.spool import Spool
from pipelines.download import Config, run
from pipelines.download.shard import Downloader, members, tabulate
from pipelines.layout import chunk_rows
from pipelines.tables import read_slices
from pipelines.web import Web
from pipelines.web.politeness.client import LocalLimiter

pytestmark = [pytest.mark.long, pytest.mark.alone]  # downloads


def jpeg(width=90, height=60, colour="red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "JPEG")
    return out.getvalue()


ROUTES = {
    "/a.jpg": answer(jpeg()),
    "/b.jpg": answer(jpeg(colour="blue")),
    "/wide.jpg": answer(jpeg(width=600, height=20)),
    "/noai.jpg": answer(jpeg(), X_Robots_Tag="noai"),
    "/page.jpg": answer(b"<html>", Content_Type="image/jpeg"),
    "/half.jpg": answer(jpeg(800, 800)[:5000]),
    "/robots.txt": answer(b"User-agent: *\nDisallow: /private/\n\nUser-agent: GPTBot\nDisallow: /untrained/"),
}


@pytest.fixture
def site():
    """Its port and what was asked for, host and path."""
    with serving(ROUTES) as served:
        yield served.port, served.asked


def config(port: int, **changes) -> Config:
    web = Web(connect_to={"*.example": f"127.0.0.1:{port}"}, host_concurrency=8)
    return Config(**{"image_size": 32, "samples_per_shard": 4, "max_aspect_ratio": 10, "web": web, **changes})


PATHS = {
    "a.jpg": None,
    "missing.jpg": ("failed_to_download", "HTTP Error 404: Not Found", "http_error"),
    "b.jpg": None,
    "noai.jpg": ("failed_to_download", "Use of image disallowed by X-Robots-Tag directive", "opt_out"),
    "private/a.jpg": ("failed_to_download", "robots_disallowed: robots.txt", "robots_disallowed"),
    "untrained/a.jpg": ("failed_to_download", "opt_out: robots.txt: User-agent: GPTBot", "opt_out"),
    "page.jpg": ("failed_to_resize", "Image decoding error", "not_an_image"),
    "half.jpg": ("failed_to_resize", "Image decoding error", "truncated"),
    "wide.jpg": ("failed_to_resize", "aspect ratio too large", "aspect_ratio_too_large"),
}
ROWS = [(f"http://img.example/{path}", f"caption of {path}") for path in PATHS] + [
    ("http://img.example/a.jpg", "again ä")
]


@pytest.fixture
def spool():
    with Spool() as spool:
        yield spool


async def test_every_url_once_and_in_order(site, spool):
    port, asked = site
    urls = [f"http://img.example/{path}" for path in ("b.jpg", "a.jpg", "b.jpg", "missing.jpg", "b.jpg")]
    async with Downloader(config(port)) as downloader:
        outcomes = [await task for task in await downloader.start(urls, spool)]
    assert [outcome.sha256 for outcome in outcomes[:2]] == [outcomes[2].sha256, outcomes[1].sha256]
    assert [outcome.reason for outcome in outcomes] == [None, None, None, "http_error", None]
    assert asked.count("img.example/b.jpg") == 1


async def test_a_gif_cut_behind_its_size_and_a_host_that_ends_in_a_digit_cost_their_own_rows(site, spool, monkeypatch):
    port, _ = site
    monkeypatch.setitem(ROUTES, "/cut.gif", answer(b"GIF87a\x40\0\x30\0"))
    monkeypatch.setitem(ROUTES, "/away.jpg", answer(b"", "302 Found", Location="http://static1/a.jpg"))
    names = ("img.example/cut.gif", "static1/a.jpg", "img.example/away.jpg", "img.host2/b.jpg")
    mapped = {pattern: f"127.0.0.1:{port}" for pattern in ("*.example", "static1", "img.host2")}
    async with Downloader(config(port, web=Web(connect_to=mapped))) as downloader:
        outcomes = [await task for task in await downloader.start([f"http://{name}" for name in names], spool)]
    assert [outcome.reason for outcome in outcomes] == ["truncated", None, None, None]
    assert outcomes[0].status == "failed_to_resize"


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("pipelines.download.shard.resize", "failed_to_resize"),
        ("pipelines.web.fetcher.canonical", "failed_to_download"),
    ],
)
@pytest.mark.parametrize(
    "error", [IndexError("at 7"), ValueError("odd"), struct.error("short"), zlib.error("x"), EOFError(), MemoryError()]
)
async def test_what_nobody_foresaw_costs_its_own_row(site, spool, monkeypatch, caplog, where, status, error):
    """Visible in the row and in the log, with its place."""

    def fails(*_):
        raise error

    monkeypatch.setattr(where, fails)
    monkeypatch.setattr("infra.rows._seen", set())
    async with Downloader(config(site[0])) as downloader:
        (outcome,) = [await task for task in await downloader.start(["http://img.example/a.jpg"], spool)]
    assert (outcome.status, outcome.reason, outcome.ticket) == (status, "unforeseen_error", None)
    assert outcome.message == f"unforeseen_error: {type(error).__name__} in fails"
    assert any(record.exc_info[1] is error for record in caplog.records)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), TransientError("later")])
async def test_failures_of_this_machine_are_no_row_s(site, spool, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr("pipelines.download.shard.resize", fails)
    async with Downloader(config(site[0])) as downloader:
        (task,) = await downloader.start(["http://img.example/a.jpg"], spool)
        with pytest.raises(type(error)):
            await task


async def test_an_error_of_the_rate_limiter_is_no_row_s(site, spool):
    class Broken(LocalLimiter):
        async def exchange(self, *_):
            raise KeyError("a host")

    settings = config(site[0])
    async with Downloader(settings, Broken(settings.web)) as downloader:
        (task,) = await downloader.start(["http://img.example/a.jpg"], spool)
        with pytest.raises(KeyError):
            await task


@pytest.fixture
def downloaded(ray_cluster, site, pairs_artifact, finished):
    return finished(run, config(site[0]), {"pairs": pairs_artifact(ROWS)})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_the_stage(downloaded, site, pairs_artifact, finished, img2dataset, tmp_path):
    """One run, read by every reader it is written for."""
    folder = tmp_path / "stage0/data"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{shard:05d}{end}" for shard in range(3) for end in (".tar", ".parquet", "_stats.json")
    )

    # every attempted row, in order, with what became of it
    rows = [row for shard in range(3) for row in pq.read_table(folder / f"{shard:05d}.parquet").to_pylist()]
    assert [(row["url"], row["caption"]) for row in rows] == ROWS
    for row in rows:
        expected = PATHS[row["url"].removeprefix("http://img.example/")]
        assert (row["status"], row["error_message"], row["reason"]) == (expected or ("success", None, None))
        if expected is None:
            assert (row["width"], row["height"], row["original_width"], row["original_height"]) == (48, 32, 90, 60)
    assert downloaded.manifest.funnel.kept == 3
    assert downloaded.manifest.funnel.entered == 10

    # img2dataset: its columns in its order, its keys, its statistics, its rule for what is done
    assert pq.read_schema(folder / "00000.parquet").names[len(pairs_schema()) :] == [
        *("key", "status", "error_message", "width", "height", "original_width", "original_height", "exif", "sha256"),
        *("reason", "image_opt_out", "digital_source"),  # ours
    ]
    assert [row["key"] for row in rows] == [
        img2dataset.downloader.compute_key(index % 4, index // 4, math.ceil(math.log10(4)), 5) for index in range(10)
    ]
    done = {int(path.name.split("_")[0]) for path in folder.glob("*.json")}
    assert done == {0, 1, 2}
    stats = json.loads((folder / "00000_stats.json").read_text())
    assert stats["status_dict"]["HTTP Error 404: Not Found"] == 1
    assert stats["successes"] == 2

    # webdataset, and our own reader: the successes, in order
    tars = [str(folder / f"{shard:05d}.tar") for shard in range(3)]
    theirs = [
        (sample["__key__"], sample["txt"], sample["jpg"].shape, sample["json"]["sha256"])
        for sample in webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8")
    ]
    gc.collect()  # here, where the files webdataset leaves open are forgiven
    good = [row for row in rows if row["status"] == "success"]
    assert theirs == [(row["key"], row["caption"], (32, 48, 3), row["sha256"]) for row in good]
    with open(tars[0], "rb") as tar:
        assert [sorted(sample) for sample in read_samples(tar)] == [["__key__", "jpg", "json", "txt"]] * 2

    # a stage that lost a shard does just that one again, and the same again is the same, byte for byte
    (tmp_path / "stage0/ledger/00001.json").unlink()
    (folder / "00001.tar").write_bytes(b"cut")
    asked = site[1].count("img.example/a.jpg")
    resumed = finished(run, config(site[0]), {"pairs": pairs_artifact(ROWS)}, tmp_path / "stage0")
    assert resumed.manifest == downloaded.manifest
    assert not list(resumed.verify())
    assert site[1].count("img.example/a.jpg") == asked  # it is in the first and the last shard
    again = finished(run, config(site[0]), {"pairs": Artifact(tmp_path / "pairs", pairs_artifact(ROWS).manifest)})
    assert again.manifest == downloaded.manifest


def test_urls_in_unusual_spellings(ray_cluster, site, pairs_artifact, tmp_path):
    """Rows keep the URL as listed, so it cannot be assumed canonical; an invalid one fails only its own row."""
    listed = {
        "http://img.example": "http_error",  # "/" is not there
        "http://img.example?a.jpg": "http_error",
        "HTTP:\\\\IMG.example\\a.jpg": None,
        "http:/img.example/./b.jpg": None,
        "//img.example/a.jpg": "refused_address",
        "not an address": "refused_address",
        "http://user@img.example/a.jpg": "refused_address",
    }
    manifest = run(config(site[0]), {"pairs": pairs_artifact([(url, "an image") for url in listed])}, Context(tmp_path))
    rows = [row for path in sorted(tmp_path.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert {row["url"]: row["reason"] for row in rows} == listed
    assert manifest.facts["failing_hosts"] == {"img.example": 2}


def test_progress_as_a_line_and_as_curves(ray_cluster, site, pairs_artifact, tmp_path):
    """Rates, success, the commonest errors and worst hosts, the time left: as a line, and all numbers as curves."""
    events: list[Event] = []
    manifest = run(config(site[0]), {"pairs": pairs_artifact(ROWS)}, Context(tmp_path, emit=events.append))
    line = [event for event in events if isinstance(event, Progress)][-1]
    assert (line.done, line.total, line.numbers["success"], line.numbers["eta_s"]) == (3, 3, "30%", 0)
    assert re.fullmatch(r"\w+ \d0%, \w+ \d0%", line.numbers["errors"])
    assert line.numbers["at"] == "img.example 4"
    curves = [event for event in events if isinstance(event, Metrics)]
    assert [curve.step for curve in curves] == sorted({curve.step for curve in curves})
    last = curves[-1].values
    assert last.keys() >= {"images_per_s", "MB_per_s", "eta_s", "share/success", "share/http_error"}
    assert last["images_per_s"] > 0 and last["MB_per_s"] > 0
    shares = {name.removeprefix("share/"): value for name, value in last.items() if name.startswith("share/")}
    assert shares.pop("success") == manifest.metrics["success_share"] == 0.3
    assert shares == {name: count / 10 for name, count in manifest.funnel.dropped.items()}


def test_a_download_without_an_image_fails_with_the_reasons_and_begins_anew(
    ray_cluster, site, pairs_artifact, finished
):
    pairs = pairs_artifact([(f"http://127.0.0.1:{site[0]}/a.jpg", "one"), ("http://img.example/missing.jpg", "two")])
    folder = pairs.store.url + "-images"
    with pytest.raises(StageFailed, match="none of 2 pairs") as caught:
        finished(run, config(site[0]), {"pairs": pairs}, folder)
    assert all(words in str(caught.value) for words in ("http_error 1", "refused_address 1"))
    reached = config(site[0]).replace(
        web=Web(allow_private=("127.0.0.0/8",), connect_to=config(site[0]).web.connect_to)
    )
    assert finished(run, reached, {"pairs": pairs}, folder).manifest.funnel.kept == 1
    assert finished(run, config(site[0], min_success_share=0), {"pairs": pairs}).manifest.funnel.kept == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_img2dataset_continues_where_we_stopped(site, pairs_artifact, img2dataset, tmp_path, spool):
    """In a folder of ours it finds the missing shard, and fills in what we would have."""
    from img2dataset.reader import Reader
    from img2dataset.writer import WebDatasetSampleWriter

    here = f"http://127.0.0.1:{site[0]}"
    paths = ["a.jpg", "missing.jpg", "wide.jpg", "b.jpg", "page.jpg", "a.jpg", "b.jpg"]
    pairs = pairs_artifact([(f"{here}/{path}", f"caption of {path}") for path in paths])
    ours = Config(image_size=32, samples_per_shard=4, max_aspect_ratio=10, web=Web(allow_private=("127.0.0.0/8",)))
    output = ShardOutput(LocalStore(tmp_path), "all")
    async with Downloader(ours) as downloader:
        for shard, slices in enumerate(chunk_rows(pairs.files("data/"), 4)):
            rows = read_slices(pairs.store, slices)
            fetched = [await task for task in await downloader.start(rows["url"].to_pylist(), spool)]
            table = tabulate(rows, fetched, shard, ours)
            write_triple(output, shard, members(table, fetched, spool, "jpg"), table)

    folder = tmp_path / "data"
    expected = pq.read_table(folder / "00001.parquet").drop_columns(["reason", "image_opt_out", "digital_source"])
    samples = read_all(folder / "00001.tar")
    for path in folder.glob("00001*"):
        path.unlink()
    done = {int(path.name.split("_")[0]) for path in folder.glob("*.json")}  # its main() has just this line
    one_file = tmp_path / "pairs.parquet"  # it begins a new shard with every file
    pq.write_table(read_slices(pairs.store, next(chunk_rows(pairs.files("data/"), 100))), one_file)
    columns = [name for name in pairs_schema().names if name not in ("url", "caption")]
    reader = Reader(str(one_file), "parquet", "url", "caption", None, None, columns, 4, done, str(tmp_path))
    theirs = img2dataset.downloader.Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=img2dataset.resizer.Resizer(32, "keep_ratio", True, max_aspect_ratio=10),
        thread_count=1,
        save_caption=True,
        extract_exif=True,
        output_folder=str(folder),
        column_list=reader.column_list,
        timeout=10,
        number_sample_per_shard=4,
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )
    shards = list(reader)
    assert [shard for shard, _ in shards] == [1]
    theirs.download_shard(shards[0])
    found = pq.read_table(folder / "00001.parquet").sort_by("key")
    same = [name for name in expected.column_names if name != "sha256"]  # of a refused image we know it, they do not
    assert found.select(same).to_pylist() == expected.select(same).to_pylist()
    assert {name: found.schema.field(name).type for name in same} == {
        name: expected.schema.field(name).type for name in same
    }
    assert read_all(folder / "00001.tar").keys() == samples.keys()


def read_all(path) -> dict[str, bytes]:
    with open(path, "rb") as tar:
        return dict(read_tar(tar))


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 9))
def test_chunks_lose_nothing(sizes, size):
    files = [File(path=str(index), bytes=0, sha256="", rows=rows) for index, rows in enumerate(sizes)]
    rows = [(str(index), row) for index, count in enumerate(sizes) for row in range(count)]
    chunks = [
        [(part.path, part.start + at) for part in parts for at in range(part.rows)] for parts in chunk_rows(files, size)
    ]
    assert [row for part in chunks for row in part] == rows
    assert all(len(part) == size for part in chunks[:-1])
    assert all(chunks)


def test_png_quality_is_its_compression():
    with pytest.raises(ConfigError, match="encode"):
        Config(encode_format="png")
    assert Config(encode_format="png", encode_quality=9).encode_quality == 9


def test_how_fast_never_enters_the_identity():
    fast = Config(rows_in_flight=1, resize_threads=7, web=Web(concurrency=1, deadline_s=1))
    assert fast.identity() == Config().identity()


def test_a_stage_that_only_fails_stops_and_can_be_done_again(ray_cluster, site, pairs_artifact, finished, tmp_path):
    """A network that is down must not become a data set of failures."""
    port, _ = site
    rows = [(f"http://img{index % 7}.example/a.jpg", "an image") for index in range(1200)]
    pairs = pairs_artifact(rows)
    settings = {"samples_per_shard": 400, "limits": {"in_flight": 1}}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nothing listens
        with pytest.raises(StageFailed, match=r"only 0 of 1200 rows succeeded"):
            finished(run, config(closed.getsockname()[1], **settings), {"pairs": pairs}, tmp_path / "images")
    done = finished(run, config(port, **settings), {"pairs": pairs}, tmp_path / "images")
    assert done.manifest.funnel.kept == 1200


def test_names_that_do_not_resolve_stop_the_stage_before_it_starts(pairs_artifact, tmp_path, monkeypatch, ray_cluster):
    monkeypatch.setattr("pipelines.web.health.look_up", lambda name: ([], socket.EAI_AGAIN))
    pairs = pairs_artifact([(f"http://host{index}.test/a.jpg", "an image") for index in range(10)])
    with pytest.raises(StageFailed, match="resolver"):
        run(Config(), {"pairs": pairs}, Context(tmp_path / "images"))
