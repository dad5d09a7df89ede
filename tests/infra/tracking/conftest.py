"""A real MLflow on a database, and a run to send there."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from infra.cache import cache_folder
from infra.tracking import Address
from infra.tracking.database import provide
from tests.infra.tracking.followed import Run


@pytest.fixture(scope="session")
def database(kept_tables, tmp_path_factory):
    """One database for all tests. Each test has its own experiment."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "mlflow.db").write_bytes(gzip.decompress(kept_tables.read_bytes()))
    run = Run(folder / "root", "first")
    run.begin()
    run.send(Address(f"sqlite:///{folder}/mlflow.db", f"{folder}/mlartifacts"))
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def kept_tables(tmp_path_factory):
    """The file that the first run leaves in an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        provide(tmp_path_factory.mktemp("first") / "mlflow.db")
        (kept,) = (cache_folder() / "mlflow").iterdir()
    return kept


@pytest.fixture
def kept(kept_tables, tmp_path, monkeypatch):
    """The same in this test's own cache, and no address of MLflow."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (cache_folder() / "mlflow").mkdir(parents=True)
    return Path(shutil.copy(kept_tables, cache_folder() / "mlflow"))


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
