"""The report read back with an HTML parser: what it shows, and that it asks nothing of anyone."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from infra.run.manifest import Artifact, File, Funnel, Manifest
from infra.store import open_store
from workflows.report.page import funnel_png, render
from workflows.report.view import Report, StageView

NASTY = '</pre><script>alert("x")</script><img src=https://evil.example/x onerror=alert(1)>'


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def png(width: int = 60, height: int = 40, noise: bool = False) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels if noise else np.zeros_like(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def stage(tmp_path):
    def make(name, files=(), funnel=None, *, seconds=1.5, store=None, config=None):
        folder = store or open_store(tmp_path / name)
        listed = []
        for path, data in dict(files).items():
            folder.write(path, data)
            listed.append(File(path=path, bytes=len(data), sha256="0" * 64))
        manifest = Manifest(
            stage=name,
            digest="ab" * 32,
            identity={"config": config or {}, "inputs": {"pages": "cd" * 32}},
            files=listed,
            funnel=funnel,
            provenance={"versions": {"torch": "2.6"}, "source": "ef" * 32},
        )
        return StageView(name, manifest, Artifact(folder, manifest), seconds, 1, "done")

    return make


RESULT = {
    "dataset": "seen",
    "pretrained": "train-abc",
    "model": "ViT-B-32",
    "language": "en",
    "task": "zeroshot_classification",
    "metrics": {"acc1": 0.8125, "acc5": 1.0},
    "intervals": {
        "confidence": 0.95,
        "method": {"acc1": "Wilson", "acc5": "Wilson"},
        "bounds": {"acc1": [0.75, 0.875], "acc5": [1.0, 1.0]},
    },
}
HISTORY = "".join(json.dumps({"samples": 100 * n, "loss": 3 / n, "note": "text"}) + "\n" for n in range(1, 9))


@pytest.fixture
def run(stage):
    return Report(
        "quick-12345678",
        "/some/folder/quick.py",
        [
            stage("crawl", funnel=Funnel(unit="urls", entered=1200, kept=1000, dropped={"robots_disallowed": 200})),
            stage(
                "filter",
                {"figures/kept.png": png(), "figures/dropped_text_junk.png": png()},
                Funnel(unit="images", entered=4000, kept=3100, dropped={"text_junk": 880, "junk": 20}),
            ),
            stage("train", {"data/history.jsonl": HISTORY.encode(), "figures/training.png": png()}, seconds=3725.0),
            stage(
                "zeroshot",
                {
                    "data/seen_x_zeroshot_classification.json": json.dumps(RESULT).encode(),
                    "data/00000_stats.json": b"!",
                },
                seconds=None,
            ),
            StageView("later", None, None, None, 0, "waiting"),
        ],
        ["0123456789ab"],
    )


def test_shows_what_is_there(run):
    text = Page(render(run)).text
    for words in (
        "quick-12345678",
        "81.2% top-1 accuracy, seen 75.0% – 87.5%",
        "3,100 images at the end from 1,200 urls",
        "1 h 02 min",
        "robots disallowed 200",
        "0.812 0.750 – 0.875",
        "95% interval",
        "dropped: text junk 880 in all",
        "loss 0.375 at the end",
        "waiting",
        "0123456789ab",
        "torch 2.6",
    ):
        assert words in text
    assert "4 of 5 stages done" in text


def evaluated(stage, count):
    """As many models evaluated on one test set, each a hundredth better than the last."""
    views = []
    for number in range(count):
        result = {**RESULT, "metrics": {"acc1": 0.3 + 0.01 * number}}
        files = {f"data/seen_{number}_zeroshot_classification.json": json.dumps(result).encode()}
        views.append(stage(f"zeroshot_seen_{'abcdef'[number]}", files))
    return Page(render(Report("r", "x", views))).text


def test_numbers_of_several_models_name_whose_they_are(stage):
    assert "30.0% top-1 accuracy, seen 75.0% – 87.5%" in evaluated(stage, 1)
    two = evaluated(stage, 2)
    assert "30.0% top-1 accuracy, seen zeroshot_seen_a: 75.0% – 87.5%" in two
    assert "31.0% top-1 accuracy, seen zeroshot_seen_b: 75.0% – 87.5%" in two
    six = evaluated(stage, 6)
    assert "30.0% – 35.0% top-1 accuracy, seen 6 models, from zeroshot_seen_a to zeroshot_seen_f" in six


def test_sections_without_content_are_left_out(stage):
    page = Page(render(Report("r", "empty", [stage("only")])))
    assert {attrs["id"] for tag, attrs in page.tags if tag == "section"} == {"time", "provenance"}
    Page(render(Report("r", "empty", [])))


def test_curves_skip_what_is_no_finite_number(stage):
    lines = [{"samples": n, "loss": value, "never": float("nan")} for n, value in enumerate([2.5, float("inf"), None])]
    history = "\n".join(json.dumps(line) for line in lines)
    page = Page(render(Report("r", "x", [stage("train", {"data/history.jsonl": history.encode()})])))
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == ["loss over training"]
    assert "loss 2.5 at the end" in page.text


def test_asks_nothing_of_the_network(run):
    html = render(run)
    page = Page(html)
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "form", "base"}
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/"))
    assert "url(" not in html
    assert "@import" not in html
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_hostile_names_are_text(stage):
    hostile = {**RESULT, "dataset": NASTY, "model": NASTY, "metrics": {NASTY: 0.5, "acc1": 0.5}}
    run = Report(
        NASTY,
        NASTY,
        [
            stage(
                "a",
                {
                    "data/x_zeroshot_classification.json": json.dumps(hostile).encode(),
                    "data/history.jsonl": json.dumps({"samples": 1, NASTY: 2.0}).encode(),
                    "figures/<b>.png": png(),
                },
                Funnel(unit=NASTY, entered=1, kept=0, dropped={NASTY: 1}),
                config={"templates": [NASTY], "url": "https://user:hunter2@host/"},
            ),
            StageView(NASTY, None, None, None, 1, NASTY),
        ],
    )
    html = render(run)
    page = Page(html)
    assert not {"script", "b "} & {tag for tag, _ in page.tags}
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [attrs["alt"] for attrs in images if "chart" not in attrs.get("class", "")] == ["a: <b>"]
    assert "alert(" in page.text
    assert "hunter2" not in html


def test_images_are_embedded_and_large_ones_shrunk(stage):
    view = stage("x", {"figures/small.png": png(), "figures/large.png": png(400, 300, noise=True)})
    page = Page(render(Report("r", "x", [view])))
    images = {attrs["alt"]: attrs for tag, attrs in page.tags if tag == "img"}
    for name, kind, size in (("x: small", "png", (60, 40)), ("x: large", "webp", (400, 300))):
        head, _, body = images[name]["src"].partition(",")
        assert head == f"data:image/{kind};base64"
        with Image.open(io.BytesIO(base64.b64decode(body))) as image:
            assert image.size == size
        assert (images[name]["width"], images[name]["height"]) == tuple(map(str, size))


def test_the_same_run_gives_the_same_page(run):
    assert render(run) == render(run)
    assert funnel_png(run.stages) == funnel_png(run.stages)


def test_reads_artifacts_from_object_stores(stage):
    view = stage("x", {"figures/a.png": png()}, store=open_store("memory://report-test/x"))
    assert "data:image/png" in render(Report("r", "x", [view]))


def test_the_summary_is_light_to_import():
    heavy = "{'jinja2', 'matplotlib', 'PIL', 'numpy', 'pyarrow'}"
    code = f"import sys, workflows.report.summary; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_run_without_charts_does_not_load_matplotlib():
    code = """
import sys
from workflows.report.page import render
from workflows.report.view import Report, StageView
from workflows.run import runner
assert "nothing" in render(Report("r", "x", [StageView("nothing", None, None, None, 0, "waiting")]))
print(*{"matplotlib"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
