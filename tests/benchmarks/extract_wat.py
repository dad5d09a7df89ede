"""WAT extraction, pages per second of one core: ours and cc2dataset's on the same file, finding the same pairs.

    python tests/benchmarks/extract_wat.py --peer-python /path/to/venv/bin/python

cc2dataset pins old versions of what we use, so give it a virtual environment of its own: ``python -m venv ccvenv`` and
``ccvenv/bin/pip install cc2dataset==1.5.0``. Without ``--peer-python`` it is looked for in this interpreter; if it is
not there, ours is measured alone.

The file is made up, of pages like those of a news site or a shop: 60 links each, every fifth an image, two in three of
these with an alt text, one page in five in another script than Latin, and the headers, ``<meta>`` and ``<link>`` tags
that come with them: 3.1 kB of gzip and 8.9 kB of JSON a page. Ours does all its cleaning, opt-outs and canonical
addresses, once for alt texts alone, which are the same pairs as cc2dataset's, once for all sources. fastwarc's bare
reading is printed beside them as the limit. Both keep their rows in memory. What is measured is CPU time; the best of
several runs counts, the spread is printed.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
import tempfile
import time

import pyarrow as pa
from fastwarc.warc import ArchiveIterator, WarcRecordType

from pipelines.extract.config import Config
from pipelines.extract.shard import Row, Rows, as_rows
from pipelines.formats.warc import Reader

WORDS = {
    "latin": "red|bicycle|old|harbour|evening|light|small|kitchen|table|fresh|bread|market|portrait|of|woman|lake",
    "german": "schöner|Garten|über|der|Straße|Mädchen|mit|Hut|grüne|Äpfel|große|Brücke|am|Fluss|Gemälde",
    "russian": "красная|машина|старый|город|зимний|лес|женщина|с|книгой|белая|собака|на|снегу",
    "chinese": "红色自行车|古老的港口|夏天的湖|木屋|城市夜景|新鲜面包",
}
HEADERS = {
    "Server": "nginx",
    "Date": "Sat, 18 May 2024 02:11:09 GMT",
    "Content-Type": "text/html; charset=UTF-8",
    "X-Crawler-Transfer-Encoding": "chunked",
    "Connection": "keep-alive",
    "Vary": "Accept-Encoding",
    "Cache-Control": "max-age=0, private, must-revalidate",
    "Set-Cookie": ["session=3f9a2c1d; Path=/; HttpOnly", "lang=en; Path=/"],
    "Strict-Transport-Security": "max-age=31536000",
    "X-Crawler-Content-Encoding": "gzip",
    "Content-Length": "84213",
}

PEER = """
import gc, io, json, sys, time, hashlib, logging
from cc2dataset.main import extract_documents_from_wat
data = open(sys.argv[1], "rb").read()
seconds = []
for _ in range(int(sys.argv[2])):
    found = None
    gc.collect()
    start = time.process_time()
    found = extract_documents_from_wat(io.BytesIO(data), "image")
    seconds.append(time.process_time() - start)
pairs = sorted((row["page_url"], row["url"], row["alt"]) for row in found)
print(json.dumps([seconds, len(pairs), hashlib.sha256(json.dumps(pairs).encode()).hexdigest()]))
"""


def text(draw: random.Random, script: str, low: int, high: int) -> str:
    words = WORDS[script].split("|")
    return " ".join(draw.choice(words) for _ in range(draw.randint(low, high)))


def page(number: int, draw: random.Random) -> tuple[str, dict]:
    """The address and the HTML-Metadata of one page."""
    script = draw.choice(["latin"] * 12 + ["german", "russian", "chinese"])
    host = f"www.site{draw.randrange(3000)}.example"
    url = f"https://{host}/{draw.choice(['news', 'shop', 'blog/2024'])}/{number}-{draw.randrange(10**6)}.html"
    title = text(draw, script, 4, 9)
    links = []
    for place in range(60):
        name = f"{draw.randrange(10**9):x}"
        if place % 5 == 0:
            address = draw.choice(
                [
                    f"https://cdn.{host}/media/{name[:2]}/{name}.jpg",
                    f"https://images{place % 4}.example.net/{name}/w_640,h_480/photo-{number}.webp?v={place}",
                    f"/wp-content/uploads/2024/05/{name}-768x512.jpg",
                    f"assets/img/{name}.png",
                ]
            )
            link = {"path": "IMG@/src", "url": address}
            if place % 3:
                link["alt"] = text(draw, script, 2, 9)
            if place % 7 == 0:
                link["title"] = text(draw, script, 2, 5)
        else:
            link = {"path": "A@/href", "url": f"/{name}/{draw.randrange(10**5)}", "text": text(draw, script, 1, 6)}
            if place % 11 == 3:
                link |= {"url": f"https://social.example/share?u={url}", "rel": "nofollow noopener", "target": "_blank"}
        links.append(link)
    metas = [
        {"name": "HTML@/lang", "content": "en"},
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
        {"name": "description", "content": text(draw, script, 10, 25)},
        {"name": "robots", "content": "index, follow, max-image-preview:large"},
        {"property": "og:type", "content": "article"},
        {"property": "og:title", "content": title},
        {"property": "og:url", "content": url},
        {"property": "og:image", "content": f"https://cdn.{host}/og/{number}.jpg"},
        {"name": "twitter:card", "content": "summary_large_image"},
        {"name": "generator", "content": "WordPress 6.5.3"},
    ]
    head = {
        "Title": title,
        "Metas": metas,
        "Link": [{"path": "LINK@/href", "url": f"/css/{n}.css", "rel": "stylesheet"} for n in range(6)],
        "Scripts": [{"path": "SCRIPT@/src", "url": f"https://cdn.{host}/js/{n}.js"} for n in range(5)],
    }
    return url, {"Head": head, "Links": links}


def record(url: str, payload: dict) -> bytes:
    document = {
        "Container": {"Filename": "CC-MAIN-20240518-00000.warc.gz", "Compressed": True, "Offset": "80610308"},
        "Envelope": {
            "Payload-Metadata": payload,
            "Format": "WARC/1.0",
            "WARC-Header-Length": "600",
            "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url, "Content-Length": "84921"},
        },
    }
    block = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-31T01:17:49Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{hashlib.md5(block).hexdigest()}>\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0)


def make(pages: int) -> bytes:
    """A WAT file: for each page a record about the request, one about the response, one about the crawler's notes."""
    draw = random.Random(1)
    parts = []
    for number in range(pages):
        url, html = page(number, draw)
        request = {"Actual-Content-Type": "application/http; msgtype=request", "HTTP-Request-Metadata": {"Headers": {}}}
        response = {
            "Actual-Content-Type": "application/http; msgtype=response",
            "HTTP-Response-Metadata": {
                "Response-Message": {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"},
                "Headers": HEADERS,
                "HTML-Metadata": html,
            },
        }
        notes = {"Actual-Content-Type": "application/metadata-fields", "WARC-Metadata-Metadata": {}}
        parts += [record(url, request), record(url, response), record(url, notes)]
    return b"".join(parts)


def ours(data: bytes, config: Config, repeats: int) -> tuple[list[float], list[Row]]:
    """CPU seconds of each run, and the rows of the last."""
    seconds: list[float] = []
    for _ in range(repeats):
        batches: list[pa.Table] = []
        gc.collect()
        start = time.process_time()
        batches += Rows(Reader(io.BytesIO(data), 4 << 20), config).batches()
        seconds.append(time.process_time() - start)
    return seconds, [row for table in batches for row in as_rows(table)]


def bare(data: bytes) -> float:
    """fastwarc alone, with the reading of each block: what no extraction can be faster than."""
    start = time.process_time()
    for found in ArchiveIterator(io.BytesIO(data), record_types=WarcRecordType.metadata, parse_http=False):
        found.reader.read()
    return time.process_time() - start


def peer(python: str, data: bytes, repeats: int) -> tuple[list[float], int, str] | None:
    """cc2dataset's CPU seconds, number of pairs and a digest of them; None if it is not installed."""
    with tempfile.NamedTemporaryFile(suffix=".wat.gz") as file:
        file.write(data)
        file.flush()
        command = [python, "-W", "ignore", "-c", PEER, file.name, str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "ModuleNotFoundError: No module named 'cc2dataset'" in done.stderr:
            return None
        raise SystemExit(done.stderr)
    seconds, count, digest = json.loads(done.stdout.splitlines()[-1])
    return seconds, count, digest


def line(name: str, seconds: list[float], pages: int, size: int) -> str:
    best, worst = min(seconds), max(seconds)
    return f"{name:28}{pages / best:12,.0f}{size / best / 1e6:12.1f}{(worst / best - 1) * 100:11.0f}%"


def main(arguments: list[str] | None = None) -> float | None:
    """Print the table; the ratio of the best runs, ours to cc2dataset's, if that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has cc2dataset")
    options = parser.parse_args(arguments)

    data = make(options.pages)
    alone, everything = Config(sources=("alt",)), Config()
    runs, rows = ours(data, alone, options.repeats)
    more, others = ours(data, everything, options.repeats)
    limit = [bare(data) for _ in range(options.repeats)]
    theirs = peer(options.peer_python, data, options.repeats)
    pairs = sorted([row.page_url, row.url, row.caption] for row in rows if row.reason is None)

    found = f"{len(pairs):,} alt texts, {len(others):,} rows of all"
    print(f"{options.pages:,} pages, {len(data) / 1e6:.1f} MB gzip; {found}")
    print(f"{'':28}{'pages/s':>12}{'MB gzip/s':>12}{'spread':>12}")
    print(line("fastwarc, reading alone", limit, options.pages, len(data)))
    print(line("clipline, alt texts", runs, options.pages, len(data)))
    print(line("clipline, all sources", more, options.pages, len(data)))
    if theirs is None:
        print(f"cc2dataset is not installed in {options.peer_python}")
        return None
    seconds, count, digest = theirs
    print(line("cc2dataset", seconds, options.pages, len(data)))
    if (count, digest) != (len(pairs), hashlib.sha256(json.dumps(pairs).encode()).hexdigest()):
        raise SystemExit(f"the two do not find the same pairs: {len(pairs)} of ours, {count} of cc2dataset's")
    ratio = min(seconds) / min(runs)
    print(f"the same {count:,} pairs; ratio {ratio:.2f}")
    return ratio


if __name__ == "__main__":
    main()
