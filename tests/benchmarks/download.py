"""Downloading: clipline and img2dataset 1.47 on the same list from the same server, one after the other.

    python -m tests.benchmarks.download [peer] [trouble] [memory] [scaling] [--folder DIR]

Both run as their users run them, `clipline run url_list` and `img2dataset`, with two processes of 64 connections to
one host, 256 px keep_ratio, JPEG quality 95, sha256, Exif.

peer     images per CPU second: the slope of the CPU time of the whole process tree between two sizes of list, which
         leaves out what starting up costs, of the best of several runs; images per second of the whole command at the
         larger size; the likeness of the images (PSNR, dB). The smaller list has a shard for each process: ours starts
         a worker only when there is a shard for it, img2dataset starts all at once
trouble  images per second, by the slope, with three rows to a host, a tenth of the hosts slow (5 s) and a tenth dead,
         both at their default settings
memory   peak memory of the process tree at 10,000 and at 100,000 rows of small pictures
scaling  seconds per image of one worker on one core and of two on two, nginx on the same cores

The rest of the machine should be idle; CPU seconds depend little on it, seconds a lot.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from infra.formats.shards import read_samples
from tests.benchmarks.served import Meter, dead, host, make_pictures, nginx, slow

BIN = Path(sys.executable).parent


def write_list(path: Path, rows: int, pictures: int, ports: list[int], rows_per_host: int) -> None:
    """``rows`` addresses; the hosts are at each of ``ports`` in turn."""
    urls = []
    for row in range(rows):
        number = row // rows_per_host
        urls.append(f"http://{host(number)}:{ports[number % len(ports)]}/{row % pictures}.jpg?{row}")
    captions = [f"picture number {row % pictures}" for row in range(rows)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)


def clipline(urls: Path, out: Path, *, cpus: int = 2, shard: int = 1000, **settings: object) -> Meter:
    options = {
        "url_list": str(urls),
        "image_size": 256,
        "download.samples_per_shard": shard,
        "download.web.allow_private": '["127.0.0.0/8"]',
        **settings,
    }
    sets = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    tracking = f"sqlite:///{out.parent}/mlflow.db"  # one for all runs, as users have it; the first one makes it
    env = {**os.environ, "CLIPLINE_ROOT": str(out), "MLFLOW_TRACKING_URI": tracking}
    command = [str(BIN / "clipline"), "run", "url_list", "--until", "download", "--cpus", str(cpus), *sets]
    return Meter(command, env, out.with_suffix(".log"))


def img2dataset(urls: Path, out: Path, **settings: object) -> Meter:
    options = {
        "url_list": urls,
        "output_folder": out,
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "image_size": 256,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        **settings,
    }
    env = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = [str(BIN / "img2dataset"), *(f"--{name}={value}" for name, value in options.items())]
    return Meter(command, env, out.with_suffix(".log"))


def images(folder: Path, most: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for tar in sorted(folder.glob("*.tar")):
        with tar.open("rb") as source:
            for sample in read_samples(source):
                found[str(json.loads(sample["json"])["url"])] = bytes(sample["jpg"])
                if len(found) >= most:
                    return found
    return found


def likeness(ours: Path, theirs: Path, most: int = 1000) -> list[float]:
    """The PSNR of each picture both have, dB; 100 for equal ones."""
    one, other = images(ours, most), images(theirs, most)
    assert one.keys() == other.keys(), "they do not have the same pictures"
    pixels = [[np.asarray(Image.open(io.BytesIO(side[url])).convert("RGB")) for side in (one, other)] for url in one]
    return [min(100.0, cv2.PSNR(a, b)) for a, b in pixels]


def data(root: Path) -> Path:
    (found,) = (root / "artifacts/download").glob("*/data")
    return found


def successes(folder: Path) -> int:
    return sum(json.loads(path.read_text())["successes"] for path in folder.glob("*_stats.json"))


def peer(args: argparse.Namespace, work: Path, port: int) -> None:
    best: dict[tuple[str, int], Meter] = {}  # by CPU time: what disturbs a run can only add to it
    for turn in range(args.repeats):
        for rows in args.rows:
            urls, ours, theirs = (work / f"{rows}-{turn}-{name}" for name in ("list.parquet", "ours", "theirs"))
            write_list(urls, rows, args.pictures, [port], args.rows_per_host)
            meters = {
                "clipline": clipline(urls, ours, **{"download.web.host_concurrency": 64}),
                "img2dataset": img2dataset(
                    urls, theirs, processes_count=2, thread_count=64, number_sample_per_shard=1000
                ),
            }
            for (name, meter), folder in zip(meters.items(), (data(ours), theirs), strict=True):
                assert successes(folder) == rows, f"{name} has {successes(folder)} of {rows}"
                best[name, rows] = min(meter, best.get((name, rows), meter), key=lambda one: one.cpu_s)
                print(
                    f"{name:12} {rows:6} rows: {meter.seconds:6.1f} s, {meter.cpu_s:6.1f} CPU-s, "
                    f"peak {meter.peak_bytes / 2**20:,.0f} MiB",
                    flush=True,
                )
    small, large = args.rows
    per_image = {
        name: 1000 * (best[name, large].cpu_s - best[name, small].cpu_s) / (large - small)
        for name in ("clipline", "img2dataset")
    }
    whole = best["img2dataset", large].seconds / best["clipline", large].seconds
    alike = sorted(likeness(data(ours), theirs))
    print(f"CPU per image:       {per_image['clipline']:.2f} ms, img2dataset {per_image['img2dataset']:.2f} ms")
    print(f"images per CPU-s:    {per_image['img2dataset'] / per_image['clipline']:.2f} x img2dataset (bar 2.2, aim 3)")
    print(f"images/s at {large}:  {whole:.2f} x img2dataset (bar 2)")
    print(
        f"PSNR, dB:            least {alike[0]:.1f}, 1% {alike[len(alike) // 100]:.1f}, "
        f"median {alike[len(alike) // 2]:.1f} (bar 38)",
        flush=True,
    )


def trouble(args: argparse.Namespace, work: Path, root: Path, port: int) -> None:
    seconds: dict[str, list[float]] = {"clipline": [], "img2dataset": []}
    good: dict[str, list[int]] = {"clipline": [], "img2dataset": []}
    with slow((root / "0.jpg").read_bytes(), 5.0) as slow_port, dead() as dead_port:
        for rows in args.troubled:
            urls = work / f"troubled-{rows}.parquet"
            write_list(urls, rows, args.pictures, [port] * 8 + [slow_port, dead_port], 3)
            ours, theirs = work / f"ours-troubled-{rows}", work / f"theirs-troubled-{rows}"
            meters = {"clipline": clipline(urls, ours), "img2dataset": img2dataset(urls, theirs)}
            for (name, meter), folder in zip(meters.items(), (data(ours), theirs), strict=True):
                seconds[name].append(meter.seconds)
                good[name].append(successes(folder))
                print(
                    f"{name:12} {rows:6} rows, a tenth slow, a tenth dead: {meter.seconds:6.1f} s, "
                    f"{good[name][-1]} images, {meter.cpu_s:.1f} CPU-s",
                    flush=True,
                )
    whole = seconds["img2dataset"][1] / seconds["clipline"][1]
    rates = {name: (good[name][1] - good[name][0]) / (seconds[name][1] - seconds[name][0]) for name in seconds}
    ratio = rates["clipline"] / rates["img2dataset"]
    print(f"images/s with trouble: {rates['clipline']:.0f}, img2dataset at its defaults {rates['img2dataset']:.0f}")
    print(f"                       {ratio:.2f} x (bar 4); whole command {whole:.2f} x", flush=True)


def memory(args: argparse.Namespace, work: Path, port: int) -> None:
    peaks = []
    for rows in args.memory:
        urls = work / f"memory-{rows}.parquet"
        write_list(urls, rows, args.pictures, [port], args.rows_per_host)
        meter = clipline(urls, work / f"memory-{rows}", **{"download.web.host_concurrency": 64})
        peaks.append(meter.peak_bytes)
        largest = max(meter.peaks.values())
        print(
            f"clipline {rows:7} rows: {meter.seconds:6.1f} s, peak {meter.peak_bytes / 2**20:,.0f} MiB in all, "
            f"{largest / 2**20:,.0f} MiB the largest process",
            flush=True,
        )
    print(f"memory: {peaks[1] / peaks[0]:.2f} x for {args.memory[1] / args.memory[0]:.0f} x the rows (bar 1.1)")


def scaling(args: argparse.Namespace, work: Path, root: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    rates = []
    for count in (1, 2):
        os.sched_setaffinity(0, cores[:count])  # for what we start from here on, nginx too
        with nginx(root.resolve(), work / f"nginx-{count}") as port:
            seconds = []
            for rows in args.scaling:
                urls = work / f"scaling-{count}-{rows}.parquet"
                write_list(urls, rows, args.pictures, [port], args.rows_per_host)
                out = work / f"scaling-{count}-{rows}"
                clipline(urls, out, cpus=count, shard=500, **{"download.web.host_concurrency": 64})
                seconds.append(stage_seconds(out))
        rates.append((args.scaling[1] - args.scaling[0]) / (seconds[1] - seconds[0]))
        print(f"{count} worker(s) on {count} core(s): {rates[-1]:.0f} images/s", flush=True)
    os.sched_setaffinity(0, cores)
    print(f"scaling: {rates[1] / rates[0]:.2f} x from one to two workers (bar 1.8)", flush=True)


def stage_seconds(root: Path) -> float:
    """How long the download took, as the run's journal tells."""
    for path in root.glob("runs/*/journal.jsonl"):
        for line in filter(None, path.read_text().splitlines()):
            event = json.loads(line)
            if event["event"] == "stage_finished" and event["stage"] == "download":
                return float(event["seconds"])
    raise SystemExit(f"no download finished below {root}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="peer, trouble, memory or scaling; by default all")
    parser.add_argument("--pictures", type=int, default=3000, help="different JPEGs served")
    parser.add_argument("--rows", type=int, nargs=2, default=(2000, 9000), help="sizes of the lists of peer")
    parser.add_argument("--repeats", type=int, default=2, help="runs of peer; the one of least CPU time counts")
    parser.add_argument("--rows-per-host", type=int, default=1_000_000, help="rows of one host that follow another")
    parser.add_argument("--troubled", type=int, nargs=2, default=(3000, 12_000), help="sizes of the lists of trouble")
    parser.add_argument("--memory", type=int, nargs=2, default=(10_000, 100_000), help="rows of memory")
    parser.add_argument("--scaling", type=int, nargs=2, default=(1000, 5000), help="rows of scaling")
    parser.add_argument("--folder", type=Path, help="where the pictures are kept for the next time")
    args = parser.parse_args()
    every = {"peer", "trouble", "memory", "scaling"}
    parts = set(args.parts) or every
    if unknown := parts - every:
        parser.error(f"no such part: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="clipline-bench-") as scratch:
        work = Path(scratch)
        work.chmod(0o755)  # nginx, started by root, reads as somebody else
        root = args.folder or work / "pictures"
        make_pictures(root, args.pictures)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args.pictures} pictures", flush=True)
        if "peer" in parts or "trouble" in parts:
            with nginx(root.resolve(), work / "nginx") as port:
                if "peer" in parts:
                    peer(args, work, port)
                if "trouble" in parts:
                    trouble(args, work, root, port)
        if "scaling" in parts:
            scaling(args, work, root)
        if "memory" in parts:
            small = work / "small"
            make_pictures(small, args.pictures, (100, 160))
            with nginx(small, work / "nginx-small") as port:
                memory(args, work, port)


if __name__ == "__main__":
    main()
