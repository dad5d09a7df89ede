"""The task that docs/evaluation.md shows, run as a stranger would: from a recipe file, by the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from running import clipline_alone, settings

from infra.formats.testset import EvalSet

DOCS = Path(__file__).parents[3] / "docs/evaluation.md"


@pytest.fixture
def clipline(ray_cluster, model, seen, tmp_path):
    """Run a command on the recipe of the docs, with its parameters set; returns what it printed."""
    (recipe,) = re.findall(r'^```python\n(""".*?)^```$', DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(recipe.splitlines()) < 40
    (tmp_path / "neighbours.py").write_text(recipe)
    sets = {"model": f"{model.store.url}/data", "tests": f"{seen.store.url}/data", "dataset": "seen"}

    def call(command: str, *words: str, **more: object) -> str:
        recipe = [str(tmp_path / "neighbours.py")] if command in ("run", "plan") else []
        given = {**sets, **more} if recipe else {}
        return clipline_alone(tmp_path / "root", command, *recipe, *settings(**given), *words, folder=tmp_path).stdout

    return call


def test_it_is_planned_run_and_reported_like_ours(clipline, model, seen, tmp_path):
    clipline("run")
    (folder,) = tmp_path.glob("root/artifacts/neighbours/*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["identity"]["config"]["task"] == {"kind": "neighbours", "dataset": "seen"}
    assert sorted(manifest["metrics"]) == ["neighbour_recall", "neighbour_recall_high", "neighbour_recall_low"]

    # the value, from open_clip alone
    name = f"local-dir:{model.store.url}/data"
    clip, preprocess = open_clip.create_model_from_pretrained(name)
    samples = list(EvalSet.open(seen, "seen", "test"))
    with torch.no_grad():
        features = clip.eval().encode_image(torch.stack([preprocess(one.image) for one in samples]), normalize=True)
    cosines = (features @ features.T).numpy()
    np.fill_diagonal(cosines, -2)
    labels = np.array([one.label for one in samples])
    expected = (labels[cosines.argmax(axis=1)] == labels).mean()
    assert manifest["metrics"]["neighbour_recall"] == pytest.approx(expected)
    assert pq.read_table(folder / "data/neighbours.parquet")["key"].to_pylist() == [one.key for one in samples]
    (result,) = folder.glob("data/seen_*_en_neighbours.json")
    low, high = json.loads(result.read_text())["intervals"]["bounds"]["neighbour_recall"]
    assert low <= expected <= high

    # done, until a field of the task is another
    assert {row["action"] for row in json.loads(clipline("plan", "--json"))} == {"cached"}
    # nothing is embedded again
    (changed,) = [row for row in json.loads(clipline("plan", "--json", k=2)) if row["action"] == "run"]
    assert changed["stage"] == "neighbours"
    assert "task.k" in json.dumps(changed)

    text = Path(clipline("report").strip()).read_text()
    assert "neighbour recall" in text
