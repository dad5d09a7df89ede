"""Workers and drivers killed in mid-shard: no row lost, none twice, and an undisturbed run's bytes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import BEHAVIOURS
from processes import workers
from wire import Hostile, Wire

from infra.run.context import Context
from infra.schema import pairs_schema
from pipelines import download, extract
from pipelines.formats.warc import Writer
from pipelines.web import Web

pytestmark = pytest.mark.ray

PAUSE_S = 0.15
ROWS, PER_SHARD = 60, 4
PAGES, FILES = 400, 6
ODD = ("a_page_as_an_image", "jpeg_cut_off", "png_with_alpha", "not_modified")  # what fails keeps its place, too


async def unhurried(wire: Wire) -> bytes:
    """An image of its own for every path, after a moment."""
    await asyncio.sleep(PAUSE_S)
    return wire.answer(wire.good + wire.path.encode())


SITES = {
    f"unhurried_{n}": replace(BEHAVIOURS["png_with_alpha"], name=f"unhurried_{n}", does=unhurried) for n in range(4)
}


@pytest.fixture(scope="module")
def cluster_address():
    """A Ray cluster of two CPUs that outlives the drivers killed here, as a real one does."""
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets to the collector
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        gc.collect()
    yield cluster.address
    cluster.shutdown()


class Stage:
    """One stage with its input, to be run into one folder after another."""

    def __init__(self, name: str, source: Path, config: str, address: str) -> None:
        self.name, self.source, self.config = name, source, config
        self._env = {**os.environ, "RAY_ADDRESS": address}

    def start(self, target: Path) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            str(Path(__file__).with_name("victim.py")),
            self.name,
            self.source,
            target,
            self.config,
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([str(word) for word in command], env=self._env, text=True, **pipes)

    def run(self, target: Path) -> tuple[dict[str, bytes], str]:
        return self.end(self.start(target), target)

    def end(self, process: subprocess.Popen[str], target: Path) -> tuple[dict[str, bytes], str]:
        """Every file the stage leaves, but for what a killed writer had not finished; and what it said."""
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        paths = [path for path in target.rglob("*") if path.is_file()]
        files = {str(path.relative_to(target)): path.read_bytes() for path in paths}
        return {**files, "manifest": Path(f"{target}.manifest").read_bytes()}, out

    def start_until_one_shard_is_done(self, target: Path) -> subprocess.Popen[str]:
        process = self.start(target)
        deadline = time.monotonic() + 30
        while not committed(target):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no shard was ever done"
            time.sleep(0.01)
        return process


def committed(target: Path) -> set[str]:
    return {path.stem for path in target.glob("ledger/*.json")}


def ended(folder: Path, context: Context) -> Path:
    """Leave the manifest where ``victim.py`` looks for it."""
    Path(f"{folder}.manifest").write_bytes(context.finish().to_bytes())
    return folder


@pytest.fixture(scope="module")
def downloading(tmp_path_factory, cluster_address):
    folder = tmp_path_factory.mktemp("download") / "pairs"
    context = Context(folder)
    urls = [f"http://unhurried-{n % 4}.example/{n}.jpg" for n in range(ROWS - len(ODD))]
    for at, name in enumerate(ODD):
        urls.insert(11 * at, BEHAVIOURS[name].url("image"))
    table = [{"uid": f"{n:032x}", "url": url, "caption": f"caption {n}"} for n, url in enumerate(urls)]
    for part in range(3):
        size = ROWS // 3
        rows = pa.Table.from_pylist(table[part * size : (part + 1) * size], pairs_schema())
        context.output.write_table(f"data/{part:05d}.parquet", rows)
    ended(folder, context)
    with Hostile({**BEHAVIOURS, **SITES}).serving() as server:
        web = Web(connect_to=server.connect_to, host_concurrency=4)
        config = download.Config(web=web, samples_per_shard=PER_SHARD, image_size=64)
        yield Stage("download", folder, config.model_dump_json(), cluster_address), urls


@pytest.fixture(scope="module")
def extracting(tmp_path_factory, cluster_address):
    folder = tmp_path_factory.mktemp("extract") / "pages"
    context = Context(folder)
    for number in range(FILES):
        with context.output.open(f"data/{number:05d}.warc.gz") as sink:
            warc = Writer(sink, f"{number:05d}.warc.gz", "2026-01-01T00:00:00Z", {})
            for page in range(PAGES):
                url = f"http://a.example/{number}/{page}"
                images = "".join(f"<img src={page % 300}-{n}.jpg alt='Picture {n} of it'>" for n in range(20))
                warc.page(url, "2026-01-01T00:00:00Z", 200, [("Content-Type", "text/html")], images.encode(), [])
    ended(folder, context)
    return Stage("extract", folder, extract.Config().model_dump_json(), cluster_address)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """``undisturbed(stage)``: the files of a run nobody disturbed."""
    known: dict[str, dict[str, bytes]] = {}

    def run(stage: Stage) -> dict[str, bytes]:
        if stage.name not in known:
            known[stage.name], _ = stage.run(tmp_path_factory.mktemp("undisturbed") / stage.name)
        return known[stage.name]

    return run


def no_row_lost_and_none_twice(target: Path, urls: list[str]) -> None:
    shards = sorted(target.glob("data/*.parquet"))
    assert len(shards) == ROWS // PER_SHARD
    assert [row["url"] for path in shards for row in pq.read_table(path).to_pylist()] == urls


def test_a_download_whose_workers_are_killed(downloading, undisturbed, tmp_path):
    stage, urls = downloading
    target = tmp_path / "images"
    process = stage.start_until_one_shard_is_done(target)
    while not (victims := workers("ray::_batch_task")):  # between one lot and the next there is nobody
        assert process.poll() is None, process.communicate()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert len(committed(target)) < ROWS // PER_SHARD, "they were killed too late to matter"
    files, said = stage.end(process, target)
    assert "shard_retry" in said
    assert files == undisturbed(stage)
    no_row_lost_and_none_twice(target, urls)


def test_a_download_whose_driver_is_killed(downloading, undisturbed, tmp_path):
    stage, urls = downloading
    target = tmp_path / "images"
    process = stage.start_until_one_shard_is_done(target)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {name: (target / "ledger" / f"{name}.json").stat().st_mtime_ns for name in committed(target)}
    assert 0 < len(kept) < ROWS // PER_SHARD, "it was killed too late to matter"
    files, _ = stage.run(target)
    assert files == undisturbed(stage)
    for name, written in kept.items():
        assert (target / "ledger" / f"{name}.json").stat().st_mtime_ns == written, f"{name} was done again"
    no_row_lost_and_none_twice(target, urls)


@pytest.mark.parametrize("victim", ["workers", "driver"])
def test_an_extraction(extracting, undisturbed, tmp_path, victim):
    target = tmp_path / "pairs"
    process = extracting.start_until_one_shard_is_done(target)
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = extracting.start(target)
    else:
        for worker in workers("ray::_batch_task"):
            os.kill(worker, signal.SIGKILL)
    files, _ = extracting.end(process, target)
    assert files == undisturbed(extracting)
