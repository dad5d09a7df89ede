"""The outcome of a correct pipeline on the embedded web, row by row: where and why each page and image is dropped.

Read from the same description the site is served from, and from nothing else: no stage, no fetched byte and no rule of
the pipeline enters, so that an erring stage cannot confirm its own error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from infra.run.manifest import Funnel
from infra.schema import Drop
from workflows.demo.oddities import ALTERED, AWAY, CLOSED, DOWN, UNTRAINED
from workflows.demo.website import MAX_DEPTH, SEEDS, Image, Page, Shown, Web

__all__ = ["Row", "crawled", "funnels", "rows"]

# Why a page is not kept, by its kind. What is not named here is kept.
PAGES = {
    "private": Drop.ROBOTS,
    "missing": Drop.HTTP_ERROR,
    "gone": Drop.HTTP_ERROR,
    "broken": Drop.HTTP_ERROR,
    "moved": Drop.REDIRECT,
    "loop": Drop.REFUSED,
    "inside": Drop.REFUSED,
    "scheme": Drop.REFUSED,
    "away": Drop.OFF_SITE,
    "pdf": Drop.NOT_HTML,
    "json": Drop.NOT_HTML,
    "jpeg": Drop.NOT_HTML,
    "endless": Drop.TOO_LARGE,
    "cut": Drop.TRUNCATED,
    "slow": Drop.TIMEOUT,
    "noai-header": Drop.OPT_OUT,
    "tdm-header": Drop.OPT_OUT,
}
# Pages that are kept, but whose images may not be used.
OPTED_OUT = ("noai-meta", "tdm-meta")
# Where an image's way ends, and why, by how it is shown, what its address answers, its measures and its text.
SHOWN: dict[str, tuple[str, Drop]] = {
    "bare": ("extract", Drop.NO_TEXT),
    "pixel": ("extract", Drop.TRACKING_PIXEL),
    "inline": ("extract", Drop.BAD_URL),
    "script": ("extract", Drop.BAD_URL),
    "missing": ("download", Drop.HTTP_ERROR),
    "gone": ("download", Drop.HTTP_ERROR),
    "broken": ("download", Drop.HTTP_ERROR),
    "html": ("download", Drop.NOT_AN_IMAGE),
    "vector": ("download", Drop.NOT_AN_IMAGE),
    "corrupt": ("download", Drop.DECODE),
    "stub": ("download", Drop.TRUNCATED),
    "cut": ("download", Drop.TRUNCATED),
    "slow": ("download", Drop.TIMEOUT),
    "loop": ("download", Drop.REFUSED),
    "inside": ("download", Drop.REFUSED),
    "scheme": ("download", Drop.REFUSED),
    "noai": ("download", Drop.OPT_OUT),
    "noimageai": ("download", Drop.OPT_OUT),
    "noindex": ("download", Drop.OPT_OUT),
    "tdm": ("download", Drop.OPT_OUT),
    "untrained": ("download", Drop.OPT_OUT),
    "private": ("download", Drop.ROBOTS),
    "icon": ("download", Drop.TOO_SMALL),
    "banner": ("download", Drop.ASPECT),
    "bomb": ("download", Drop.AREA),
    "thumbnail": ("filter", Drop.IMAGE_SIDE),
    "panorama": ("filter", Drop.IMAGE_ASPECT),
    "junk": ("filter", Drop.TEXT_JUNK),
    "word": ("filter", Drop.TEXT_LENGTH),
    "long": ("filter", Drop.TEXT_LENGTH),
    "short": ("filter", Drop.TEXT_WORDS),
    "unspaced": ("filter", Drop.LANGUAGE),
    "foreign": ("filter", Drop.LANGUAGE),
    "vague": ("balance", Drop.NO_MATCH),
}
STAGES = ("extract", "download", "filter", "dedup", "balance")


@dataclass(frozen=True)
class Row:
    """A text that comes with an image on a page, and where its way ends: ``stage`` "" if it is good to train on.

    Of rows that show the same ``scene`` one stays; which one is deduplication's choice, so here it is the first.
    """

    page: str
    url: str
    source: str
    text: str
    scene: int
    file: str  # equal for equal bytes
    stage: str = ""
    reason: Drop | None = None


def crawled(web: Web) -> dict[str, Drop | None]:
    """Every address that is due, breadth first, with the reason it is not kept, or None if it is."""
    fate: dict[str, Drop | None] = {}
    level = list(SEEDS)
    for depth in range(MAX_DEPTH + 2):
        found: list[str] = []
        for url in level:  # grows while it is read: what a page was moved to belongs to its level
            if url in fate:
                continue
            page = web.page(url)
            assert page is not None, f"{url} is linked but not planned"
            fate[url] = Drop.BUDGET if depth > MAX_DEPTH else _page_fate(page)
            if fate[url] is None:
                found += [link for link in page.links if link != AWAY]
            elif fate[url] is Drop.REDIRECT:
                level.append(f"{url}/here")
        level = found
    return fate


def _page_fate(page: Page) -> Drop | None:
    if page.url in (*CLOSED, *DOWN):
        return Drop.ROBOTS
    return Drop.OPT_OUT if page.url in UNTRAINED else PAGES.get(page.kind)


@lru_cache(maxsize=4)
def rows(web: Web) -> tuple[Row, ...]:
    """Every candidate on the pages that are kept."""
    found: list[Row] = []
    for url, dropped in crawled(web).items():
        page = web.page(url)
        if dropped is None and page is not None:
            found += (row for shown in page.shown for row in _shown(page, shown))
    return tuple(_without_copies(found))


def _shown(page: Page, shown: Shown) -> Iterator[Row]:
    """The rows of one appearance, one per text; an image without any text is a row too."""
    image = shown.image
    stage, reason = ("extract", Drop.OPT_OUT) if page.kind in OPTED_OUT else SHOWN.get(shown.kind, ("", None))
    texts = (("", ""),) if shown.kind == "bare" else shown.texts
    url = "" if shown.kind in ("inline", "script") else image.url
    for source, text in texts:
        row = Row(page.url, url, source, text, image.scene.seed, _file(image), stage, reason)
        yield row
        if shown.markup == "twice":
            yield replace(row, stage="extract", reason=Drop.DUPLICATE_PAIR)


def _file(image: Image) -> str:
    """A key that is equal for images with equal bytes."""
    twist = image.kind if image.kind in ALTERED else ""
    return f"{image.scene.seed} {twist} {image.format} {image.width} {image.original}"


def _without_copies(found: list[Row]) -> Iterator[Row]:
    """Rows that reach deduplication: of equal files one stays, then of files that show the same scene."""
    files: set[str] = set()
    scenes: set[int] = set()
    for row in found:
        if STAGES.index(row.stage or "balance") < STAGES.index("dedup"):
            yield row
            continue
        if row.file in files:
            yield replace(row, stage="dedup", reason=Drop.DUPLICATE_BYTES)
        elif row.scene in scenes:
            yield replace(row, stage="dedup", reason=Drop.NEAR_DUPLICATE)
        else:
            yield row
        files.add(row.file)
        scenes.add(row.scene)


def funnels(web: Web) -> dict[str, Funnel]:
    """The funnel of each stage from crawl to balance, in the units the stages count.

    Balance's as far as the captions decide: what is thinned out, being drawn by lot, is counted as kept.
    """
    pages = crawled(web)
    result = {"crawl": _funnel("pages", pages.values())}
    left = rows(web)
    for stage, unit in zip(STAGES, ("candidates", "pairs", "images", "images", "images"), strict=True):
        result[stage] = _funnel(unit, (row.reason if row.stage == stage else None for row in left))
        left = tuple(row for row in left if row.stage != stage)
    return result


def _funnel(unit: str, reasons: Iterable[Drop | None]) -> Funnel:
    counts = Counter(reasons)
    kept = counts.pop(None, 0)
    dropped = {str(reason): count for reason, count in counts.items()}
    return Funnel(unit=unit, entered=kept + sum(dropped.values()), kept=kept, dropped=dict(sorted(dropped.items())))
