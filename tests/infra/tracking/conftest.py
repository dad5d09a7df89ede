"""A real MLflow on a database, and a run to send there."""

from __future__ import annotations

import pytest

from infra.tracking import Address
from tests.infra.tracking.followed import Run


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """One database for all tests: making one takes MLflow seconds. Each test has its own experiment."""
    folder = tmp_path_factory.mktemp("mlflow")
    run = Run(folder / "root", "first")
    run.begin()
    run.send(Address(f"sqlite:///{folder}/mlflow.db", f"{folder}/mlartifacts"))
    return folder / "mlflow.db"


@pytest.fixture
def address(database):
    return Address(f"sqlite:///{database}", str(database.parent / "mlartifacts"))


@pytest.fixture
def client(address):
    from mlflow import MlflowClient

    return MlflowClient(address.uri, registry_uri=address.uri)


@pytest.fixture
def run(tmp_path, request):
    return Run(tmp_path / "root", request.node.name[:60])


@pytest.fixture
def pages(client, run):
    """The MLflow runs of the run's experiment: the parent is ``""``, children are under their stage's name."""

    def pages():
        experiment = client.get_experiment_by_name(run.name)
        runs = client.search_runs([experiment.experiment_id])
        return {found.data.tags["clipline.stage"]: found for found in runs}

    return pages
