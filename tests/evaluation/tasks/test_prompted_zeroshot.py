"""Zero-shot classification with other prompts than the set's: of each class, by name, in several languages."""

from __future__ import annotations

import json
from pathlib import Path

import evaluation_samples as samples
import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch

from evaluation import evaluate
from evaluation.classifiers import classifiers
from evaluation.embedded import open_embedded
from evaluation.evaluate import work
from evaluation.tasks import ZeroShot
from infra.encoder.open_clip import load_encoder
from infra.errors import ConfigError, DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput

pytestmark = pytest.mark.long  # a model

NAMES = ["red circle", "blue circle", "red star", "blue star", "$x_1 cross", "heart"]
CUPL = {name: [f"{name} number {i}" for i in range(1 + label)] for label, name in enumerate(NAMES)}


@pytest.fixture
def data(embedded, model, seen):
    return open_embedded(embedded["seen"], EvalSet.open(seen, "seen", "test"), lambda: load_encoder(model))


def prompted(folder: Path, files: dict[str, object]):
    return samples.write_artifact(
        folder / "prompts", {f"data/{name}": json.dumps(content).encode() for name, content in files.items()}
    )


def reference(model, prompts_of_class: list[list[str]]) -> np.ndarray:
    """The vectors of classes as CLIP_benchmark makes them: normalise, mean, normalise; from open_clip alone."""
    name = f"local-dir:{Path(model.store.url) / 'data'}"
    clip, _ = open_clip.create_model_from_pretrained(name)
    tokenizer = open_clip.get_tokenizer(name)
    rows = []
    with torch.no_grad():
        for texts in prompts_of_class:
            mean = torch.nn.functional.normalize(clip.eval().encode_text(tokenizer(texts)), dim=-1).mean(dim=0)
            rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def test_class_specific_prompts_are_clip_benchmarks(data, model, tmp_path):
    from dataclasses import replace

    given = replace(data, prompts=prompted(tmp_path, {"prompts.json": {"seen": CUPL}}))
    (made,) = classifiers(ZeroShot(dataset="seen"), given).values()
    assert made == pytest.approx(reference(model, [CUPL[name] for name in NAMES]), abs=1e-6)


def test_templates_and_names_of_the_task(data, model):
    task = ZeroShot(dataset="seen", templates="open_clip:simple_imagenet", classnames=[f"a {name}" for name in NAMES])
    (made,) = classifiers(task, data).values()
    theirs = [[template(f"a {name}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES] for name in NAMES]
    assert made == pytest.approx(reference(model, theirs), abs=1e-6)
    with pytest.raises(DataError, match="other classes than seen has"):
        classifiers(ZeroShot(dataset="seen", classnames="open_clip:imagenet"), data)


def test_what_a_name_stands_for_is_the_identity():
    by_name = evaluate.Config(task=ZeroShot(dataset="x", templates="open_clip:simple_imagenet"))
    texts = [template("{c}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    assert by_name.identity() == evaluate.Config(task=ZeroShot(dataset="x", templates=texts)).identity()
    assert json.loads(json.dumps(by_name.resolved()))["task"]["templates"] == texts
    with pytest.raises(ConfigError, match="OPENAI_IMAGENET_TEMPLATES"):
        ZeroShot(dataset="x", templates="open_clip:food")


def test_a_table_by_language(embedded, model, seen, tmp_path):
    files = {
        "en.json": ["a photo of a {c}", "{c}"],
        "de.json": {name: [f"ein {name}"] for name in NAMES},
        "th_x.json": {name: [f"รูป {name}", "ภาพ"] for name in NAMES},
    }
    given = {"embeddings": embedded["seen"], "dataset": seen, "model": model, "prompts": prompted(tmp_path, files)}
    config = evaluate.Config(task=ZeroShot(dataset="seen", language="de"), bootstrap=50)
    record = work.evaluate(config, given, ShardOutput(Context(tmp_path / "out").store, "x"))
    table = {row["group"]: row for row in pq.read_table(tmp_path / "out/data/languages.parquet").to_pylist()}
    assert list(table) == ["de", "en", "th"]
    # Each row is what that language alone gets; the headline is the task's.
    for code, row in table.items():
        alone = {name: content for name, content in files.items() if name.startswith(code)}
        given["prompts"] = prompted(tmp_path / code, alone)
        task = ZeroShot(dataset="seen", language=code)
        one = work.evaluate(config.replace(task=task), given, ShardOutput(Context(tmp_path / code).store, "x"))
        for name in ("acc1", "acc5"):
            assert row[name] == one.facts["metrics"][name]["value"]
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert record.facts["metrics"]["acc1"]["value"] == table["de"]["acc1"]
    given["prompts"] = prompted(tmp_path / "again", files)
    with pytest.raises(DataError, match="no prompts in 'fr'"):
        config = config.replace(task=ZeroShot(dataset="seen", language="fr"))
        work.evaluate(config, given, ShardOutput(Context(tmp_path / "none").store, "x"))
