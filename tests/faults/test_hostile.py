"""Every behaviour in :mod:`hostile`, against the real client and the stages' shards."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bombs import HEALTHY_IMAGE, HEALTHY_PAGE
from hostile import BEHAVIOURS
from wire import Hostile

from infra.run.context import Context, ShardOutput
from infra.schema import Drop, pairs_schema
from pipelines import crawl, download, extract, layout
from pipelines.crawl import shard as crawl_shard
from pipelines.crawl.frontier_tables import Due
from pipelines.download import shard as download_shard
from pipelines.extract import shard as extract_shard
from pipelines.web import FetchError, Web
from pipelines.web.fetcher import Fetcher

pytestmark = [pytest.mark.long, pytest.mark.alone]  # every attack takes its deadline

APPETITE_MB = 100  # more memory than this no behaviour may cost the process that meets it
SHARDS = ("00000", "00001")  # by deadline
DATE = "2026-01-01T00:00:00Z"
IMAGES = [one for one in BEHAVIOURS.values() if "image" in one.kinds]
PAGES = [one for one in BEHAVIOURS.values() if "page" in one.kinds]


def hasty(server: Hostile, **changes) -> Web:
    """Everyday's limits, a hundred times smaller, so that waiting for them takes no time."""
    return Web(
        **{
            "connect_to": server.connect_to,
            "deadline_s": 0.8,
            "connect_s": 0.4,
            "max_delay_s": 0.1,
            "retries": 1,
            "retry_s": 0.0,
            "max_page_bytes": 2 << 20,
            "max_image_bytes": 4 << 20,
            **changes,
        }
    )


def patient(server: Hostile, deadline_s: float) -> Web:
    """For many at once. A connection is given up long before the deadline, and a second one not: so it is each time."""
    return hasty(server, deadline_s=deadline_s, connect_s=deadline_s * 2 / 3, concurrency=256)


def by_patience(behaviours):
    """Deadlines, each with its behaviours: all at once keep a slow machine busy for seconds, so none waits for a short
    one but those that end by it."""
    slow = [one for one in behaviours if one.reason is Drop.TIMEOUT]
    return (3.0, slow), (30.0, [one for one in behaviours if one not in slow])


def each(behaviours):
    """For ``parametrize``."""
    return [pytest.param(one, id=one.name) for one in behaviours]


def test_the_list_reads_as_documentation():
    assert len(BEHAVIOURS) >= 40
    for one in BEHAVIOURS.values():
        assert one.does_what.strip() and "\n" not in one.does_what, one.name


# --- one at a time, through the client --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    with Hostile(BEHAVIOURS).serving() as running:
        yield running


@pytest.mark.parametrize("behaviour", each(BEHAVIOURS.values()))
async def test_the_client(server, behaviour):
    """The stated reason within the deadline, and the same host's next file comes through the same client."""
    kind = behaviour.kinds[0]
    healthy = HEALTHY_PAGE if kind == "page" else HEALTHY_IMAGE
    async with asyncio.timeout(behaviour.within_s) as limit, Fetcher(hasty(server)) as fetcher:
        if behaviour.reason is None or behaviour.at == "after":
            response = await fetcher.get(behaviour.url(kind), kind)
            assert 200 <= response.status < 300
        else:
            with pytest.raises(FetchError) as caught:
                await fetcher.get(behaviour.url(kind), kind)
            assert (caught.value.reason, caught.value.detail) == (behaviour.reason, AnyOf(behaviour.detail))
        if behaviour.neighbour:
            limit.reschedule(asyncio.get_running_loop().time() + 3.0)
            assert (await fetcher.get(behaviour.url(kind, "healthy"), kind)).body == healthy
    assert server.cookies == []


async def test_a_body_below_the_minimum_rate_ends_long_before_the_deadline(server, monkeypatch):
    monkeypatch.setattr("pipelines.web.http_client._GRACE_S", 0.2)
    async with asyncio.timeout(3.0), Fetcher(hasty(server, deadline_s=60.0)) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.get(BEHAVIOURS["body_byte_by_byte"].url("image"), "image")
    assert (caught.value.reason, caught.value.detail) == (Drop.TIMEOUT, "too slow")


class AnyOf(str):
    """Equal to every text in which the pattern is found."""

    def __eq__(self, other):
        return re.search(str(self), other) is not None

    __hash__ = str.__hash__


# --- all at once, through the stages ----------------------------------------------------------------------------------


def rows(behaviours, kind):
    """Each behaviour, behind it its healthy neighbour on the same host, and a healthy host of its own."""
    for one in behaviours:
        yield one.url(kind)
        if one.neighbour:
            yield one.url(kind, "healthy")
        yield f"http://calm-{one.host}/healthy.{'html' if kind == 'page' else 'jpg'}"


def download_all(folder: Path):
    """Two shards, as a worker does it: the seconds it took."""
    started = time.monotonic()
    for shard, (deadline_s, behaviours) in zip(SHARDS, by_patience(IMAGES), strict=True):
        before = Context(folder / f"pairs-{shard}")
        urls = rows(behaviours, "image")
        listed = [{"uid": f"{number:032x}", "url": url, "caption": url} for number, url in enumerate(urls)]
        before.output.write_table("data/00000.parquet", pa.Table.from_pylist(listed, pairs_schema()))
        with Hostile(BEHAVIOURS).serving() as running:
            web = patient(running, deadline_s)
            settings = download.Config(web=web, max_image_area=16_000_000, image_size=64)
            whole = tuple(layout.chunk_rows(before.output.files, settings.samples_per_shard))
            batch = [((int(shard), parts), ShardOutput(Context(folder / "images").store, shard)) for parts in whole]
            list(download_shard.work(download_shard.Work(settings, before.store), batch))
    return time.monotonic() - started


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """Folder, rows by URL, seconds."""
    folder = tmp_path_factory.mktemp("download")
    seconds = download_all(folder)
    found = pa.concat_tables(pq.read_table(folder / f"images/data/{shard}.parquet") for shard in SHARDS)
    return folder, {row["url"]: row for row in found.to_pylist()}, seconds


def test_a_download_loses_no_neighbour_and_hangs_on_none(downloaded):
    _, found, seconds = downloaded
    assert seconds < 30
    assert list(found) == [url for _, some in by_patience(IMAGES) for url in rows(some, "image")]
    assert [url for url, row in found.items() if "/healthy." in url and row["reason"]] == []


@pytest.mark.parametrize("behaviour", each(IMAGES))
def test_a_download_records(downloaded, behaviour):
    """The stated status, reason and words in the image's row."""
    row = downloaded[1][behaviour.url("image")]
    assert (row["status"], row["reason"]) == (behaviour.status, behaviour.reason)
    if behaviour.reason and behaviour.at == "fetch":
        assert row["error_message"] == AnyOf(behaviour.detail)


def test_a_second_download_is_the_same(downloaded, tmp_path):
    download_all(tmp_path)
    for name in itertools.product(SHARDS, ("parquet", "tar")):
        path = Path("images/data", ".".join(name))
        assert (tmp_path / path).read_bytes() == (downloaded[0] / path).read_bytes(), name


def crawl_all(folder: Path):
    """Two shards: their rows, and the seconds it took."""
    started, found = time.monotonic(), []
    for shard, (deadline_s, behaviours) in zip(SHARDS, by_patience(PAGES), strict=True):
        name = f"0000-{shard[-3:]}"
        with Hostile(BEHAVIOURS).serving() as running:
            web = patient(running, deadline_s)
            settings = crawl.Config(seeds=["http://a.example/"], allowed_hosts=["*.example"], warc_date=DATE, web=web)
            due = [(position, Due(url, 0)) for position, url in enumerate(rows(behaviours, "page"))]
            crawl_shard.work(crawl_shard.Shard(name, due, settings), ShardOutput(Context(folder).store, name))
        found += pq.read_table(folder / f"data/{name}.urls.parquet").to_pylist()
    return found, time.monotonic() - started


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crawl")
    return folder, *crawl_all(folder)


def test_a_crawl_loses_no_neighbour_and_hangs_on_none(crawled):
    _, found, seconds = crawled
    assert seconds < 40
    assert [row["url"] for row in found] == [url for _, some in by_patience(PAGES) for url in rows(some, "page")]
    assert [row["url"] for row in found if "/healthy." in row["url"] and row["reason"]] == []


@pytest.mark.parametrize("behaviour", each(PAGES))
def test_a_crawl_records(crawled, behaviour):
    """The stated reason and words in the page's row."""
    (row,) = (row for row in crawled[1] if row["url"] == behaviour.url("page"))
    assert row["reason"] == behaviour.crawled
    if behaviour.crawled and behaviour.crawled is behaviour.reason:
        assert row["detail"] == AnyOf(behaviour.detail)


def test_a_second_crawl_is_the_same(crawled, tmp_path):
    crawl_all(tmp_path)
    for path in (crawled[0] / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "data" / path.name).read_bytes(), path.name


def test_what_a_crawl_kept_is_extracted(crawled, tmp_path):
    """The hostile pages that are kept cost no healthy one its pair."""
    folder, found, _ = crawled
    started, with_pairs, pages = time.monotonic(), set(), 0
    for shard in SHARDS:
        output = ShardOutput(Context(tmp_path).store, f"candidates-{shard}")
        archive = folder / f"data/0000-{shard[-3:]}.warc.gz"
        record = extract_shard.find_candidates(extract_shard.Pages(shard, str(archive), 1, extract.Config()), output)
        assert "damaged" not in record.facts["records"]
        pages += record.facts["records"]["page"]
        pairs = pq.read_table(tmp_path / f"scratch/{shard}.parquet").to_pylist()
        with_pairs |= {
            row["page_url"] for row in pairs if row["caption"] == "A picture of a thing" and not row["reason"]
        }
    assert time.monotonic() - started < 20
    assert pages == sum(row["reason"] is None for row in found)
    assert {row["url"] for row in found if "/healthy." in row["url"]} <= with_pairs


# --- names that resolve to more than one thinks -----------------------------------------------------------------------


class Names:
    """A resolver: ``answers`` are taken in turn, the last for ever. ``asked`` counts the look-ups of the name."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, host, port, *_, **__):
        self.asked += 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


@pytest.fixture
async def two_addresses():
    """A port on 127.0.0.2, which the tests allow as if it were public, and on 127.0.0.1; and who was connected to."""
    met: list[str] = []

    async def serve(reader, writer):
        met.append(writer.get_extra_info("sockname")[0])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\nConnection: close\r\n\r\n<p>")
        writer.close()

    public = await asyncio.start_server(serve, "127.0.0.2", 0)
    port = public.sockets[0].getsockname()[1]
    private = await asyncio.start_server(serve, "127.0.0.1", port)
    yield port, met
    public.close()
    private.close()


ALLOWED = {"allow_private": ("127.0.0.2/32",), "obey_robots": False, "retries": 0}


async def test_a_name_that_turns_private_is_never_followed_there(monkeypatch, two_addresses):
    """DNS rebinding: either the checked address is connected to, or the name is refused."""
    port, met = two_addresses
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.2"], ["127.0.0.1"]))
    async with Fetcher(Web(**ALLOWED)) as fetcher:
        assert (await fetcher.get(f"http://rebinding.test:{port}/")).body == b"<p>"
        for path in "abc":
            try:
                assert (await fetcher.get(f"http://rebinding.test:{port}/{path}")).body == b"<p>"
            except FetchError as error:
                assert error.reason is Drop.REFUSED
    assert set(met) == {"127.0.0.2"}
    met.clear()
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    async with Fetcher(Web(**ALLOWED)) as fetcher:
        with pytest.raises(FetchError, match="not public"):
            await fetcher.get(f"http://rebinding.test:{port}/")
    assert met == []


async def test_of_public_and_private_answers_the_private_are_never_tried(monkeypatch, two_addresses):
    port, met = two_addresses
    for answer in (["127.0.0.1", "127.0.0.2", "10.0.0.1"], ["127.0.0.2", "127.0.0.1"]):
        monkeypatch.setattr(socket, "getaddrinfo", Names(answer))
        async with Fetcher(Web(**ALLOWED)) as fetcher:
            assert (await fetcher.get(f"http://mixed.test:{port}/")).status == 200
    assert met == ["127.0.0.2"] * 2


async def test_a_public_address_that_is_down_does_not_lead_to_the_private_one(monkeypatch, two_addresses):
    """Happy eyeballs try the next address; the next must be a checked one, too."""
    port, met = two_addresses
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.3", "127.0.0.1"]))
    async with Fetcher(Web(**{**ALLOWED, "allow_private": ("127.0.0.3/32",)})) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.get(f"http://down.test:{port}/")
    assert (caught.value.reason, met) == (Drop.CONNECTION, [])


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label too long")])
async def test_a_name_the_resolver_chokes_on(monkeypatch, error):
    def lookup(*_, **__):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with Fetcher(Web(**ALLOWED)) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.get("http://a.test/")
    assert (caught.value.reason, caught.value.detail) == (Drop.CONNECTION, "the host's name does not resolve")


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_no_behaviour_costs_more_memory_or_time_than_allowed(server):
    """A process that meets the bombs one by one: peak resident memory over what it held before, and seconds."""
    bombs = [one.name for one in BEHAVIOURS.values() if one.bomb]
    web = hasty(server, deadline_s=3.0).model_dump_json()
    command = [sys.executable, str(Path(__file__).with_name("appetite.py")), web, *bombs]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    assert cost.keys() == set(bombs)
    assert {name: mb for name, (mb, _) in cost.items() if mb > APPETITE_MB} == {}
    assert {name: seconds for name, (_, seconds) in cost.items() if seconds > 3.0 + BEHAVIOURS[name].within_s} == {}
