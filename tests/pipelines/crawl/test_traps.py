"""Trap detection by URL and by content, and ordinary pages that must not be detected."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crawl.config import Traps
from pipelines.crawl.traps import NEAR, Fingerprint, Pattern, fingerprint, pattern, trap, without_session

HOST = "http://a.example"


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/", ""),
        ("/a/b/a/b", ""),  # twice may happen
        ("/a/b/a/b/a/b", "path_repetition"),
        ("/a/b/a/b/a/b/index.html", "path_repetition"),
        ("/x/1/a/a/a", "path_repetition"),
        ("/a/b/c/a/b/d/a/b", ""),  # not in a row
        ("/2026/01/01/01", "path_repetition"),
        ("/" + "/".join(map(str, range(20))), ""),
        ("/" + "/".join(map(str, range(21))), "path_depth"),
        ("/?" + "&".join(f"p{n}=1" for n in range(12)), ""),
        ("/?" + "&".join(f"p{n}=1" for n in range(13)), "parameters"),
    ],
)
def test_trap_urls(path, rule):
    assert trap(HOST + path, Traps()) == rule


@given(st.lists(st.sampled_from("ab"), max_size=10), st.integers(1, 3))
def test_repetition_is_what_trying_every_run_finds(segments, most):
    runs = [
        (start, length)
        for length in range(1, len(segments) + 1)
        for start in range(len(segments) - length * (most + 1) + 1)
        if segments[start : start + length] * (most + 1) == segments[start : start + length * (most + 1)]
    ]
    assert bool(runs) == bool(trap(f"{HOST}/{'/'.join(segments)}", Traps(max_repeats=most)))


@pytest.mark.parametrize(
    ("url", "shape"),
    [
        ("/", "a.example/"),
        ("/calendar/2026/11/21", "a.example/calendar/#/#/#"),
        ("/calendar/2026-11", "a.example/calendar/#-#"),
        ("/shop/red-chair-12.html?b=1&a=2&b=3", "a.example/shop/~.html?a&b"),
        ("/tag/dogs/", "a.example/tag/~/"),
        ("/s/abcdef0123456789abcdef/x.php", "a.example/s/*/~.php"),
        ("/v2/photo7/page", "a.example/v#/photo#/~"),
    ],
)
def test_patterns(url, shape):
    assert pattern(HOST + url) == shape


def test_session_ids_in_paths():
    assert without_session(f"{HOST}/x;jsessionid=0A1B.node2?y=1") == f"{HOST}/x?y=1"
    assert without_session(f"{HOST}/(S(abc123))/shop/x.aspx") == f"{HOST}/shop/x.aspx"
    for plain in (f"{HOST}/x_(film)", f"{HOST}/a;v=1/b", f"{HOST}/x?y=;sid=1"):
        assert without_session(plain) == plain


# --- pages ---


def calendar(year, month, name):
    url = f"{HOST}/calendar/{year}/{month}"
    days = " ".join(map(str, range(1, 32)))
    text = f"Events in {name} {year} Mon Tue Wed Thu Fri Sat Sun {days} previous next home about no events this month"
    links = [f"{HOST}/calendar/{year}/{month + 1}", f"{HOST}/calendar/{year}/{month - 1}", f"{HOST}/", f"{HOST}/about"]
    return fingerprint(url, text, ["/logo.png"], links)


def words(seed, count):
    lot = random.Random(seed)
    return " ".join(f"{lot.choice('bdfgklmnprst')}{lot.choice('aeiou')}{lot.choice('lmnrst')}" for _ in range(count))


def test_months_of_a_calendar_are_alike_and_so_are_answers_that_quote_the_url():
    assert calendar(2026, 11, "November").near(calendar(2031, 2, "February"))
    lost = [
        fingerprint(f"{HOST}/{name}", f"Sorry, the page {name} was not found. {words(0, 60)}", [], [f"{HOST}/"])
        for name in ("chair", "green-table-7")
    ]
    assert lost[0].near(lost[1])


def test_articles_in_one_layout_are_not_alike_and_neither_are_galleries():
    layout = words(0, 100)
    articles = [fingerprint(f"{HOST}/{n}", f"{layout} {words(n, 30)}", [], []) for n in range(1, 100)]
    near = sum(one.near(articles[0]) for one in articles[1:])
    assert near <= 3
    gallery = [fingerprint(f"{HOST}/photo/{n}", "Photo next previous", [f"/{n}.jpg"], []) for n in range(3)]
    assert not gallery[0].near(gallery[1])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.lists(st.integers(100, 10**6), max_size=30))
def test_a_pattern_that_mostly_repeats_one_page_is_a_trap_whatever_else_it_serves(same, others):
    """Against counting every group: what fills three quarters of the pages is found, and nothing else."""
    pages = [Fingerprint(1, 0)] * len(same) + [Fingerprint(number, 0) for number in others]
    random.Random(len(pages)).shuffle(pages)
    seen = Pattern()
    for page in pages:
        seen.add(page)
    most = max(pages.count(page) for page in pages)
    is_trap = seen.is_trap(max_alike=10)
    assert not is_trap or (most > 10 and most >= 0.75 * len(pages))
    if len(set(pages)) <= 8:
        assert is_trap == (most > 10 and most >= 0.75 * len(pages))


def test_near_means_a_few_bits_and_the_same_images():
    one = Fingerprint(7, 0)
    assert one.near(Fingerprint(7, 2**NEAR - 1))
    assert not one.near(Fingerprint(7, 2 ** (NEAR + 1) - 1))
    assert not one.near(Fingerprint(8, 0))
