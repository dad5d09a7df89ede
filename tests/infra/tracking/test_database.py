"""A root's MLflow database is a copy of empty tables that are kept in the cache, and what MLflow would have made."""

from __future__ import annotations

import gzip
import re
import sqlite3
from contextlib import closing
from threading import Barrier, Thread

import mlflow
import pytest
from mlflow import MlflowClient

from infra.store import LocalStore
from infra.tracking import Address
from infra.tracking.client import environment, open_client
from infra.tracking.database import _kept, _schema, provide

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # in MLflow


def contents(database):
    """The words of all that is in a database, less the time of its first experiment.

    In any order: MLflow itself makes indices and constraints in another each time.
    """
    with closing(sqlite3.connect(database)) as opened:
        assert opened.execute("pragma quick_check").fetchone() == ("ok",)
        opened.execute("update experiments set creation_time = 0, last_update_time = 0")
        return sorted(sorted(re.split(r"[\s,()]+", line)) for line in opened.iterdump())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_root_gets_the_database_that_mlflow_would_make_there(kept, tmp_path):
    address = Address.find(LocalStore(tmp_path / "50% of a root?"))
    open_client(address)
    made = tmp_path / "made/mlflow.db"
    made.parent.mkdir()
    with environment("_MLFLOW_SERVER_ARTIFACT_ROOT", address.artifacts):
        MlflowClient(f"sqlite:///{made}")
    assert contents(address.database) == contents(made)


def test_what_is_kept_is_used_and_belongs_to_nobody(kept, tmp_path):
    with closing(sqlite3.connect(tmp_path / "marked.db")) as marked:
        marked.deserialize(gzip.decompress(kept.read_bytes()))
        assert marked.execute("select count(*) from experiments").fetchone() == (0,)
        marked.execute("create table mark (x)")
        kept.write_bytes(gzip.compress(marked.serialize()))
    provide(tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as copy:
        assert copy.execute("select name from sqlite_master where name = 'mark'").fetchall() == [("mark",)]


def test_a_database_that_is_there_stays_as_it_is(kept, tmp_path):
    database = tmp_path / "mlflow.db"
    database.write_bytes(b"")  # MLflow fills it
    provide(database)
    assert database.read_bytes() == b""


@pytest.mark.parametrize("left", ["mlflow.db-journal", "mlflow.db-wal"])
def test_what_was_left_of_a_database_is_not_played_back_into_a_copy(kept, tmp_path, left):
    (tmp_path / left).write_bytes(b"of a killed process")
    provide(tmp_path / "mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_database_at_another_address_is_not_ours_to_make(kept, tmp_path, monkeypatch):
    assert Address.find(LocalStore(tmp_path)).ours
    for uri in (f"sqlite:///{tmp_path}/mlflow.db", "postgresql://db/mlflow", "http://mlflow:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert not Address.find(LocalStore(tmp_path)).ours


def test_of_two_that_come_at_once_one_makes_it(kept, tmp_path):
    """Each then writes to it; a copy that replaced the other's would lose a row."""
    database, start = tmp_path / "root/mlflow.db", Barrier(8)
    database.parent.mkdir()

    def come(number):
        start.wait()
        provide(database)
        with closing(sqlite3.connect(database, timeout=30)) as opened, opened:
            opened.execute("insert into workspaces (name) values (?)", [f"w{number}"])

    threads = [Thread(target=come, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with closing(sqlite3.connect(database)) as opened:
        found = {name for (name,) in opened.execute("select name from workspaces")}
    assert found == {"default", *(f"w{number}" for number in range(8))}
    assert names(database.parent) == ["mlflow.db"]


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "nothing of gzip"])
def test_a_damaged_one_is_not_used(kept, harm):
    data = kept.read_bytes()
    middle = len(data) // 2
    harmed = {
        "cut": data[:middle],
        "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "empty": b"",
        "nothing of gzip": b"SQLite format 3",
    }
    cache = LocalStore(kept.parent)
    assert _kept(cache, kept.name)
    kept.write_bytes(harmed[harm])
    assert _kept(cache, kept.name) == b""


@pytest.mark.long  # has MLflow make two
def test_another_version_has_its_own_and_a_damaged_one_is_replaced(kept, tmp_path, monkeypatch):
    good = kept.read_bytes()
    kept.write_bytes(good[:1000])
    monkeypatch.setattr(mlflow, "__version__", "99.0")
    provide(tmp_path / "mlflow.db")
    assert names(kept.parent) == sorted([kept.name, f"99.0-{_schema()}.sqlite.gz"])
    assert kept.read_bytes() == good[:1000]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    provide(tmp_path / "again.db")
    assert len(kept.read_bytes()) > 1000
    assert contents(tmp_path / "again.db") == contents(tmp_path / "mlflow.db")


def test_without_a_cache_it_is_made_each_time(kept_tables, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    provide(tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as made:
        made.execute("select * from experiments")


def test_where_it_cannot_be_copied_mlflow_makes_it(kept, tmp_path, monkeypatch):
    """A file system without hard links."""
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("not here")))
    provide(tmp_path / "mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()
    assert names(tmp_path) == ["cache"]


def test_the_schema_is_that_of_the_database(kept, tmp_path):
    """Its revision is the newest of the migrations that the name is made of."""
    provide(tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as made:
        ((revision,),) = made.execute("select version_num from alembic_version").fetchall()
    folder = LocalStore(mlflow.__path__[0]).child("store/db_migrations/versions")
    assert any(name.startswith(revision) for name in folder.paths())
