"""The address of MLflow: found from the environment or below the root, shown without credentials."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from infra.store import LocalStore
from infra.tracking import Address
from infra.tracking.client import open_client


def test_without_an_address_it_is_a_database_below_the_root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    address = Address.find(LocalStore(tmp_path))
    assert (address.uri, address.artifacts) == (f"sqlite:///{tmp_path}/mlflow.db", f"{tmp_path}/mlartifacts")
    assert (
        address.ui_command
        == f"mlflow server --backend-store-uri sqlite:///{tmp_path}/mlflow.db --workers 1 --port 5000"
    )


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.parametrize("name", ["where?", "100%20sure", "50% [x] #1;&"])
def test_all_of_it_lies_below_a_root_of_any_name(kept, tmp_path, monkeypatch, name):
    root = tmp_path / name
    root.mkdir()
    address = Address.find(LocalStore(root))
    client = open_client(address)
    run = client.create_run(client.create_experiment("an experiment", address.artifacts))
    client.log_text(run.info.run_id, "hello", "greeting.txt")
    # MLflow leaves an empty folder of the quoted name.
    files = {path for path in tmp_path.rglob("*") if path.is_file() and path != kept}
    assert {path.name for path in files} == {"mlflow.db", "greeting.txt"}
    assert all(path.is_relative_to(root) for path in files)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.uri)
    assert Address.find(LocalStore("/elsewhere")).artifacts == address.artifacts


def test_the_artifacts_of_a_database_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/my.db")
    assert Address.find(LocalStore("/elsewhere")).artifacts == f"{tmp_path}/mlartifacts"


def test_a_server_with_credentials_in_its_address_does_not_show_them(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:hunter2@mlflow.example/base/")
    address = Address.find(LocalStore("/root"))
    assert address.ui_command is None
    page = "https://mlflow.example/base/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert address.page("1", "abc") == page
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:hunter2@db/mlflow")
    assert "hunter2" not in Address.find(LocalStore("/root")).ui_command


TELLS = """
import infra.tracking.client
from mlflow.telemetry.client import get_telemetry_client
print(get_telemetry_client() is not None)
"""


def test_mlflow_tells_its_makers_nothing():
    quiet = ("PYTEST_", "CI", "GITHUB_ACTIONS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")  # MLflow heeds these, too
    env = {name: value for name, value in os.environ.items() if not name.startswith(quiet)}
    done = subprocess.run([sys.executable, "-c", TELLS], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
