"""The papers' recipes are planned as they are, and one is run at toy size."""

import io
import json

import cv2
import numpy as np
import pytest
from running import QUIET, manifest, run

from infra.errors import UsageError
from infra.formats.shards import TarWriter
from workflows.recipe import load

PAPERS = ("clip", "align", "albef", "vsepp")
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def shards(tmp_path):
    sink = io.BytesIO()
    with TarWriter(sink) as out:
        for number in range(32):
            image = np.full((24, 24, 3), (number * 8, 100, 200), np.uint8)
            out.add(f"{number:04d}.png", cv2.imencode(".png", image)[1].tobytes())
            out.add(f"{number:04d}.txt", f"shade {number}\nthe shade of number {number}".encode())
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/00000.tar").write_bytes(sink.getvalue())
    return tmp_path / "shards"


def pool(folder):
    """An img2dataset folder of one image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    with TarWriter(sink) as out:
        out.add("000000000.jpg", cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    folder.mkdir()
    (folder / "00000.tar").write_bytes(sink.getvalue())
    row = {"key": ["000000000"], "url": ["http://a.example/1.jpg"], "caption": ["one"], "status": ["success"]}
    pq.write_table(pa.table(row), folder / "00000.parquet")
    return folder


@pytest.mark.parametrize("paper", PAPERS)
def test_each_can_be_planned(paper, shards, tmp_path, clipline):
    data = f"images={pool(tmp_path / 'pool')}" if paper == "align" else f"shards={shards}"
    recipe = f"workflows.recipes.papers.{paper}"
    planned = clipline("plan", recipe, "--set", data, "--root", str(tmp_path / "root"), "--json")
    assert "train" in {stage["stage"] for stage in json.loads(planned.stdout)}
    assert paper.upper() in clipline("recipes", recipe).stdout.upper()


def test_a_papers_numbers_reach_the_training(tmp_path, shards):
    def config(paper, *more):
        return load(f"workflows.recipes.papers.{paper}").build([f"shards={shards}", *more])["train"].config

    assert config("clip").schedule.warmup == 2000 * 32_768
    assert config("clip").samples == 32 * 400_000_000
    albef = config("albef")
    assert (albef.objective.queue_size, albef.objective.alpha_warmup) == (65_536, 14_100_000)
    last = albef.schedule.rate(albef.optimizer.lr, albef.samples, albef.samples)
    assert last == pytest.approx(1e-5)
    assert config("vsepp").objective.margin == 0.2
    with pytest.raises(UsageError, match="folder of the test sets"):
        config("vsepp", "captions=coco")


@QUIET
def test_one_runs_at_toy_size(ray_cluster, shards, tmp_path):
    sets = {"shards": shards, "model": json.dumps(MODEL), "samples": 64, "batch_size": 16}
    stages = run("workflows.recipes.papers.vsepp", tmp_path / "root", **sets)
    assert manifest(stages["train"])["facts"]["samples"] == 64
