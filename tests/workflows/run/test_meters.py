"""A run's metrics, scraped from the endpoint of a real Ray node, and the board that shows them."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from infra.events import Metrics, Progress, ShardRetry, StageFailed, StageFinished, StageStarted
from workflows.run.meters import Meters

BOARD = Path(__file__).parents[3] / "infra/deploy/grafana/clipline.json"
FUNNEL = {"unit": "image", "entered": 9, "kept": 7, "dropped": {"duplicate": 2}}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.long
def test_the_board_shows_what_rays_endpoint_says_of_a_run():
    Meters().record(
        "toy-1",
        [
            StageStarted(stage="download", attempt=1, digest="d", config={}),
            StageFailed(stage="download", attempt=1, error="lost", will_retry=True),
            StageStarted(stage="download", attempt=2, digest="d", config={}),
            Progress(stage="download", done=3, total=12, numbers={"images_per_s": 41.5, "slow": "example.org"}),
            ShardRetry(stage="download", shard="00001", attempt=1, error="lost"),
            StageFinished(stage="dedup", seconds=1, attempt=1, folder="f", funnel=FUNNEL),
            Metrics(stage="train", values={"loss": 0.25}, step=1),
        ],
    )
    expected = {
        'ray_clipline_stage_running{stage="download"}': 1,
        'ray_clipline_stage_running{stage="dedup"}': 0,
        'ray_clipline_stage_done{stage="download"}': 3,
        'ray_clipline_stage_total{stage="download"}': 12,
        'ray_clipline_stage_number{name="images_per_s",stage="download"}': 41.5,
        'ray_clipline_stage_number{name="loss",stage="train"}': 0.25,
        'ray_clipline_stage_rows{outcome="duplicate",stage="dedup"}': 2,
        'ray_clipline_stage_rows{outcome="kept",stage="dedup"}': 7,
        'ray_clipline_stage_attempts_total{stage="download"}': 2,
        'ray_clipline_stage_failures_total{stage="download"}': 1,
        'ray_clipline_shard_retries_total{stage="download"}': 1,
    }
    deadline, found = time.monotonic() + 60, {}
    while not expected.keys() <= found.keys() and time.monotonic() < deadline:
        time.sleep(1)  # a node passes its metrics on every ten seconds
        found = scraped()
    assert {key: found.get(key) for key in expected} == expected
    named = set(re.findall(r"ray_clipline_\w+", BOARD.read_text()))
    assert named == {key.partition("{")[0] for key in expected}


def scraped():
    """Values of the run's metrics, by name and labels."""
    (port,) = {node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in re.findall(r"^(ray_clipline_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if tags.get("run") == "toy-1":
            ours = ",".join(f'{key}="{tags[key]}"' for key in ("name", "outcome", "stage") if key in tags)
            found[f"{name}{{{ours}}}"] = float(value)
    return found


def test_the_board_is_what_grafana_imports():
    board = json.loads(BOARD.read_text())
    assert {"title", "uid", "schemaVersion", "templating", "panels"} <= board.keys()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["targets"] and panel["gridPos"]["w"] <= 24 for panel in panels)
    for target in (target for panel in panels for target in panel["targets"]):
        assert target["expr"].count("{") == target["expr"].count("}") and 'run=~"$run"' in target["expr"]
