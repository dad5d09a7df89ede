"""HTML extraction from WARC, pages per second of one core.

    python tests/benchmarks/extract_html.py FOLDER

FOLDER holds HTML files; the bar of 3,000 is for the Debian handbook, 3,300 pages in 28 languages: ``apt-get download
debian-handbook`` and ``dpkg -x`` it. They are put into a WARC file by our own writer, and read back from memory with
all sources and all cleaning on. Beside it stand fastwarc's bare iteration, and the bare parse: Lexbor and the
attributes of ``img``, on the same bodies. What is measured is CPU time; the best of several runs counts, the spread is
printed.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType
from selectolax.lexbor import LexborHTMLParser

from pipelines.extract.config import Config
from pipelines.extract.shard import Rows, as_rows
from pipelines.formats.warc import Reader, Writer

DATE = "2026-01-01T00:00:00Z"


def archive(folder: Path) -> tuple[bytes, list[bytes]]:
    """The pages of a folder as a WARC file, and their bodies."""
    sink = io.BytesIO()
    warc = Writer(sink, "pages.warc.gz", DATE, {})
    bodies = []
    for path in sorted(folder.rglob("*.html")):
        bodies.append(path.read_bytes())
        url = f"https://www.site.example/{path.relative_to(folder).as_posix()}"
        warc.page(url, DATE, 200, [("Content-Type", "text/html")], bodies[-1], [])
    return sink.getvalue(), bodies


def extract(data: bytes, config: Config) -> int:
    found = Rows(Reader(io.BytesIO(data), 4 << 20), config)
    return sum(row.reason is None for table in found.batches() for row in as_rows(table))


def iterate(data: bytes) -> int:
    return sum(len(record.reader.read()) for record in ArchiveIterator(io.BytesIO(data), WarcRecordType.response))


def parse(bodies: list[bytes]) -> int:
    images = (node.attributes for body in bodies for node in LexborHTMLParser(body).css("img"))
    return sum(bool(attributes.get("src")) for attributes in images)


def timed(work: Callable[[], int], repeats: int) -> tuple[list[float], int]:
    seconds, result = [], 0
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return seconds, result


def main(arguments: list[str] | None = None) -> float:
    """Print the table; pages per second of the best run of ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    data, bodies = archive(options.folder)
    if not bodies:
        raise SystemExit(f"no *.html below {options.folder}")

    size = sum(map(len, bodies))
    bare, _ = timed(lambda: parse(bodies), options.repeats)
    ours, pairs = timed(lambda: extract(data, Config()), options.repeats)
    context, _ = timed(lambda: extract(data, Config(context=500)), options.repeats)
    reading, _ = timed(lambda: iterate(data), options.repeats)
    print(f"{len(bodies):,} pages of {size / len(bodies) / 1e3:.1f} kB, {pairs:,} pairs")
    print(f"{'':28}{'pages/s':>12}{'pairs/s':>12}{'MB/s':>10}{'spread':>10}{'of bare parse':>16}")
    for name, seconds, found in (
        ("fastwarc, reading alone", reading, 0),
        ("Lexbor, parse and read img", bare, 0),
        ("clipline", ours, pairs),
        ("clipline with context", context, pairs),
    ):
        best, spread = min(seconds), max(seconds) / min(seconds) - 1
        rate = f"{found / best:12,.0f}" if found else " " * 12
        share = min(bare) / best
        print(f"{name:28}{len(bodies) / best:12,.0f}{rate}{size / best / 1e6:10.1f}{spread * 100:9.0f}%{share:16.2f}")
    return len(bodies) / min(ours)


if __name__ == "__main__":
    main()
