"""A gate that asks for more than the champion has: paired, with an interval above 0, or not at all."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from evaluation.compare.config import RESAMPLED
from infra.errors import UsageError
from infra.run.manifest import MANIFEST, File, Manifest
from infra.store import LocalStore
from infra.tracking import Address
from infra.tracking.client import open_client
from workflows.run.champion import better_than_champion
from workflows.stage import Gate

# MLflow's own use of SQLAlchemy, deprecated since 2.1
pytestmark = [
    pytest.mark.long,  # a database of MLflow's
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

GATE = Gate("train", "clip", {}, better=("zeroshot.acc1",))
IMAGES = 400
PICKS = np.random.default_rng(0).integers(0, IMAGES, (1000, IMAGES))  # one bootstrap for all, as evaluate draws it


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    open_client(Address(uri, str(folder / "artifacts")))
    return uri


@pytest.fixture
def root(tmp_path, database, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    return LocalStore(tmp_path)


def crown(name: str, digest: str, database: str, tags: bool = True) -> None:
    client = MlflowClient(database, registry_uri=database)
    client.create_registered_model(name)
    version = client.create_model_version(name, "file:///nowhere", tags={"clipline.artifact": digest} if tags else {})
    client.set_registered_model_alias(name, "champion", version.version)


def evaluated(
    root: LocalStore, model: str, right: np.ndarray, dataset: str = "a" * 64, metric: str = "acc1"
) -> Manifest:
    """An evaluation of ``model``, which names ``right`` of the images rightly, through vectors of it."""
    embedded = Manifest(stage="embed", digest=f"e{model}" * 8, identity={"inputs": {"model": model}})
    root.write(f"artifacts/embed/{embedded.digest[:16]}/{MANIFEST}", embedded.to_bytes())
    accuracy = float(right.mean())
    table = pa.table({metric: right[PICKS].mean(axis=1)})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    result = {"model": "toy", "pretrained": model, "metrics": {metric: accuracy}}
    files = {"data/result.json": json.dumps(result).encode(), RESAMPLED: sink.getvalue()}
    manifest = Manifest(
        stage="zeroshot",
        digest=f"z{model}{dataset[0]}" * 8,
        identity={"inputs": {"embeddings": embedded.digest, "dataset": dataset}},
        config={"task": {"dataset": "seen", "kind": "zeroshot_classification"}, "bootstrap": 1000, "seed": 0},
        files=[File(path=path, bytes=len(data)) for path, data in files.items()],
        metrics={metric.replace("@", "_at_"): accuracy, "of_this_run": 1.0},
        facts={"examples": IMAGES},
    )
    for path, data in {**files, MANIFEST: manifest.to_bytes()}.items():
        root.write(f"artifacts/zeroshot/{manifest.digest[:16]}/{path}", data)
    return manifest


def done(evaluation: Manifest, model: str) -> dict[str, Manifest]:
    return {"train": Manifest(stage="train", digest=model, identity={}), "zeroshot": evaluation}


def gate(name: str) -> Gate:
    return Gate("train", name, {}, better=("zeroshot.acc1",))


def guesses(share: float) -> np.ndarray:
    return (np.arange(IMAGES) < share * IMAGES).astype(float)


def test_only_an_interval_above_0_passes(root, database):
    evaluated(root, "old", guesses(0.5))
    crown("clear", "old", database)
    for share, expected in {0.6: True, 0.505: False, 0.5: False, 0.3: False}.items():
        new = evaluated(root, f"new{share}", guesses(share))
        (check,) = better_than_champion(gate("clear"), done(new, f"new{share}"), root)
        assert check.passed == expected, share
        assert (check.found, check.champion) == (pytest.approx(share, abs=0.003), 0.5)
        # Against the bootstrap written out.
        gain = guesses(share)[PICKS].mean(axis=1) - guesses(0.5)[PICKS].mean(axis=1)
        assert [check.low, check.high] == pytest.approx(np.quantile(gain, [0.025, 0.975]))


def test_a_metric_is_named_as_the_manifest_names_it(root, database):
    evaluated(root, "before", guesses(0.5), metric="mean_recall@1")
    crown("recalling", "before", database)
    new = evaluated(root, "after", guesses(0.6), metric="mean_recall@1")
    better = ("zeroshot.mean_recall_at_1", "zeroshot.of_this_run")
    recall, other = better_than_champion(Gate("train", "recalling", {}, better=better), done(new, "after"), root)
    assert (recall.passed, other.passed) == (True, False)
    assert "has a metric 'of_this_run'" in other.note


def test_the_first_model_and_the_champion_itself_pass(root, database):
    new = evaluated(root, "first", guesses(0.1))
    (check,) = better_than_champion(gate("nobody"), done(new, "first"), root)
    assert check.passed
    assert "no other champion" in check.note
    crown("itself", "first", database)
    assert better_than_champion(gate("itself"), done(new, "first"), root)[0].passed
    assert better_than_champion(Gate("train", "x", {"zeroshot.acc1": 1}), done(new, "first"), root) == []


def test_what_cannot_be_told_keeps_the_gate_closed(root, database, monkeypatch):
    new = evaluated(root, "new", guesses(0.9))
    crown("elsewhere", "unknown", database)
    (check,) = better_than_champion(gate("elsewhere"), done(new, "new"), root)
    assert not check.passed
    assert "evaluate it, too" in check.note
    evaluated(root, "other", guesses(0.1), dataset="b" * 64)
    crown("others", "other", database)
    (check,) = better_than_champion(gate("others"), done(new, "new"), root)
    assert not check.passed
    assert "cannot be compared image by image" in check.note
    crown("foreign", "", database, tags=False)
    (check,) = better_than_champion(gate("foreign"), done(new, "new"), root)
    assert not check.passed
    assert "not registered by clipline" in check.note
    (check,) = better_than_champion(Gate("train", "others", {}, better=("zeroshot.acc9",)), done(new, "new"), root)
    assert not check.passed
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (check,) = better_than_champion(gate("others"), done(new, "new"), root)
    assert not check.passed
    assert "does not say which is the champion" in check.note


def test_a_stage_that_is_not_there_is_refused_before_anything_runs():
    from workflows.stage import Workflow

    with pytest.raises(UsageError, match="no stage"):
        Workflow("w", (), gate=GATE)
