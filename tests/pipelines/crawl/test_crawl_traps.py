"""A site full of traps: the crawl ends far below its budget and keeps every real page."""

from __future__ import annotations

import calendar
import random
import re
from collections import Counter

import pyarrow.parquet as pq
from loopback import NOT_FOUND, answer, serving

from infra.run.context import Context
from pipelines import crawl
from pipelines.crawl.config import Config, Traps
from pipelines.web import Web

REAL = 40
MONTHS = calendar.month_name
WORDS = ["anchor", "basket", "candle", "dragon", "engine", "falcon", "garden", "hammer", "island", "jungle", "kettle"]


def page(text, *links):
    anchors = "".join(f'<a href="{link}">more</a>' for link in links)
    return answer(f"<h1>{text}</h1>{anchors}".encode())


def real(number):
    said = " ".join(random.Random(number).choices(WORDS, k=60))
    return page(said, "/", *(f"/articles/{n}" for n in (number + 1, number + 2) if n < REAL))


class Trapped(dict):
    """Site that answers any URL. Ten thousand pages are as good as endless: no crawl should get there."""

    def get(self, address, default=None):
        path = address.removeprefix("a.example")
        if path == "/":
            return page("home", "/articles/0", "/calendar/2026/1", "/loop/a/b/", "/shop?sid=1", "/find/x", "/pit/0")
        if found := re.fullmatch(r"/articles/(\d+)", path):
            return real(int(found[1]))
        if found := re.fullmatch(r"/calendar/(\d+)/(\d+)", path):
            year, month = int(found[1]), int(found[2])
            after = f"/calendar/{year + month // 12}/{month % 12 + 1}"
            before = f"/calendar/{year - (month == 1)}/{(month - 2) % 12 + 1}"
            days = " ".join(map(str, range(1, 32)))
            return page(f"Events in {MONTHS[month]} {year} {days} none", after, before, f"/calendar/{year + 1}/1", "/")
        if path.startswith("/loop/"):  # a relative link that should not have been one
            return page(f"loop {path}", "a/b/", "a/b/x.html")
        if found := re.fullmatch(r"/shop(?:/in)?\?(.*)", path):  # a new session for each visitor, and each link
            number = sum(map(ord, found[1])) * 7919 % 10_000
            return page(
                "Our shop is closed today", f"/shop?token={number}", f"/shop/in?sid={number}&token={number + 1}"
            )
        if path.startswith("/find/"):  # there is nothing, but the server says 200
            name = path.removeprefix("/find/")
            return page(f"Sorry, nothing was found for {name}. Try these", *(f"/find/{name}{one}" for one in "abc"))
        if found := re.fullmatch(r"/pit/(\d+)", path):
            number = int(found[1])
            return page("a bottomless pit", *(f"/pit/{10 * number + n}" for n in range(1, 10)))
        return NOT_FOUND if path == "/robots.txt" else default


def test_a_crawl_ends_and_reaches_every_real_page(ray_cluster, tmp_path):
    with serving(Trapped()) as site:
        web = Web(connect_to={"*.example": f"127.0.0.1:{site.port}"}, retries=0, host_concurrency=8)
        config = Config(
            seeds=["http://a.example/"], max_pages=2000, round_urls=60, host_urls=60, traps=Traps(max_alike=8), web=web
        )
        manifest = crawl.run(config, {}, Context(tmp_path))
    kept = set()
    for path in (tmp_path / "data").glob("*.urls.parquet"):
        kept |= {row["url"] for row in pq.read_table(path).to_pylist() if row["reason"] is None}
    assert {f"http://a.example/articles/{number}" for number in range(REAL)} <= kept
    families = Counter(url.split("/")[3].partition("?")[0] for url in kept)
    assert manifest.funnel.kept < 500, families
    assert "over_budget" not in manifest.funnel.dropped  # it ended by itself
    (path,) = (tmp_path / "data").glob("unvisited-*.parquet")
    rules = Counter(row["detail"] for row in pq.read_table(path).to_pylist())
    assert set(rules) == {"near_identical", "path_repetition"}
    assert manifest.funnel.dropped["crawler_trap"] == rules.total()
