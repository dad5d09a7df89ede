"""An objective that a recipe file defines trains on two Ray workers, like one of ours."""

import io
import json

import cv2
import numpy as np
import pytest
from running import clipline_alone, settings

from infra.formats.shards import TarWriter

RECIPE = '''
"""Train with a label-smoothed contrastive loss of our own."""

from pipelines import adopt
from training import train
from training.objectives.config import ObjectiveConfig
from workflows.stage import Stage, Workflow

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class Smoothed(ObjectiveConfig):
    smoothing: float = 0.1

    def build(self, model, run, inputs):
        return _smoothed(model, self.smoothing)


def _smoothed(model, smoothing):
    from training.distributed.collectives import all_gather_with_grad
    from training.objectives.infonce.objective import InfoNCE

    class SmoothedInfoNCE(InfoNCE):
        def loss(self, outputs):
            contrastive = super().loss(outputs)["loss"]
            logits = outputs["scale"] * outputs["image"] @ all_gather_with_grad(outputs["text"]).T
            uniform = (logits.logsumexp(1) - logits.mean(1)).mean()
            loss = (1 - smoothing) * contrastive + smoothing * uniform
            return {"loss": loss, "contrastive": contrastive, "uniform": uniform}

    return SmoothedInfoNCE(model)


def workflow(shards: str, smoothing: float = 0.1) -> Workflow:
    tars = Stage("shards", adopt.run, adopt.Config(path=shards, contents="shards"))
    config = train.Config(
        model=MODEL,
        objective=Smoothed(smoothing=smoothing),
        batch_size=16,
        samples=64,
        log_every=16,
        cluster={"workers": 2},
    )
    return Workflow("smoothed", (tars, Stage("train", train.run, config, {"shards": tars})))
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "smoothed.py").write_text(RECIPE)
    sink = io.BytesIO()
    colours = {"red": (0, 0, 200), "green": (0, 160, 0), "blue": (200, 0, 0)}
    with TarWriter(sink) as tar:
        for number in range(48):
            name = list(colours)[number % 3]
            tar.add(
                f"{number:04d}.png", cv2.imencode(".png", np.full((24, 24, 3), colours[name], np.uint8))[1].tobytes()
            )
            tar.add(f"{number:04d}.txt", f"a {name} square".encode())
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/00000.tar").write_bytes(sink.getvalue())
    return tmp_path


def test_two_workers_train_with_the_objective_of_a_recipe_file(ray_cluster, folder):
    sets = settings(shards=folder / "tars", smoothing=0.25)
    clipline_alone(folder / "root", "run", "smoothed.py", *sets, folder=folder)
    (artifact,) = (folder / "root/artifacts/train").iterdir()
    lines = [json.loads(line) for line in (artifact / "data/history.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines] == [16, 32, 48, 64]
    for line in lines:
        assert line["loss"] == pytest.approx(0.75 * line["contrastive"] + 0.25 * line["uniform"], rel=1e-5)
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["config"]["objective"] == {"kind": "smoothed", "smoothing": 0.25}
    (journal,) = folder.glob("root/runs/*/journal.jsonl")
    events = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    assert [event["workers"] for event in events if event["event"] == "train_start"] == [2]
