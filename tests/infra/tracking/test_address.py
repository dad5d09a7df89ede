"""The address of MLflow: found from the environment or below the root, shown without credentials."""

from __future__ import annotations

from infra.store import LocalStore
from infra.tracking import Address


def test_without_an_address_it_is_a_database_below_the_root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    address = Address.find(LocalStore(tmp_path))
    assert (address.uri, address.artifacts) == (f"sqlite:///{tmp_path}/mlflow.db", f"{tmp_path}/mlartifacts")
    assert (
        address.ui_command
        == f"mlflow server --backend-store-uri sqlite:///{tmp_path}/mlflow.db --workers 1 --port 5000"
    )


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
