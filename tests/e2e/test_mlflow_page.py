"""What MLflow shows of a run: asked through its client, and looked at in a real browser."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

# MLflow asks SQLAlchemy 2.1 for a strategy it deprecates
pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def client(demo):
    from mlflow import MlflowClient

    address = f"sqlite:///{demo.root}/mlflow.db"
    return MlflowClient(address, registry_uri=address)  # or another test's registry, which MLflow remembers


@pytest.fixture(scope="module")
def runs(client):
    """The parent run and its children by stage."""
    experiment = client.get_experiment_by_name("quickstart")
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = {
        run.info.run_name: run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    return parent, children


def test_there_is_a_parent_run_and_a_finished_child_per_stage(demo, runs):
    parent, children = runs
    assert parent.info.status == "FINISHED"
    assert set(children) == set(demo.manifests())
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert parent.data.metrics["zeroshot.acc1"] == children["zeroshot"].data.metrics["acc1"]


def test_curves_pictures_datasets_and_parameters_are_there(client, runs):
    parent, children = runs
    train = children["train"]
    losses = client.get_metric_history(train.info.run_id, "loss")
    steps = [point.step for point in losses]
    assert len(steps) >= 4
    assert steps == sorted(set(steps))
    used = {item.tags[0].value: item.dataset.name for item in train.inputs.dataset_inputs}
    assert used == {"shards": "shard", "tests": "testset"}
    assert train.data.params["samples"] == "1024"
    pictures = [file.path for file in client.list_artifacts(children["filter"].info.run_id, "figures")]
    assert any(path.endswith(".png") for path in pictures)
    assert {"report.html", "funnel.png"} <= {file.path for file in client.list_artifacts(parent.info.run_id)}


def test_the_registered_model_loads_with_open_clip(demo, client, runs, tmp_path, monkeypatch):
    import mlflow
    import open_clip
    import torch

    version = client.get_model_version_by_alias("quickstart", "champion")
    assert version.run_id == runs[1]["train"].info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{demo.root}/mlflow.db")
    folder = mlflow.artifacts.download_artifacts(
        "models:/quickstart@champion", dst_path=str(tmp_path), registry_uri=f"sqlite:///{demo.root}/mlflow.db"
    )
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    trained = open_clip.create_model_and_transforms(f"local-dir:{demo.artifact('train').url('data')}")[0]
    for one, other in zip(model.parameters(), trained.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_page_in_a_real_browser_shows_the_run(demo, runs, tmp_path):
    parent, children = runs
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = f"sqlite:///{demo.root}/mlflow.db"
    serve = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen([*serve, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/health", server)
            home = f"http://127.0.0.1:{port}/#/experiments/{parent.info.experiment_id}"
            page = _dump(f"{home}/runs/{parent.info.run_id}", tmp_path)
            assert parent.info.run_name in page
            assert "zeroshot.acc1" in page
            curves = _dump(f"{home}/runs/{children['train'].info.run_id}", tmp_path)
            assert "samples_per_s" in curves
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server never answered")


def _dump(url: str, folder) -> str:
    """The page's DOM after its scripts ran."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
    command = ["chromium", *flags, "--virtual-time-budget=20000", "--timeout=60000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=True).stdout
