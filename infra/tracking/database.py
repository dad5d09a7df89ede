"""A root's new MLflow database as a copy of one that MLflow made before.

MLflow makes a database by all migrations it ever had, each of them synced to disk: two CPU seconds and many more of
waiting. So the tables of a version of MLflow are made once and kept in the user's cache, with no row of anybody's.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import tempfile
import zlib
from pathlib import Path

import mlflow
from mlflow.db import upgrade

from infra.cache import cache_folder
from infra.store import LocalStore, Store
from infra.tracking.address import sqlite_uri

__all__ = ["provide"]

log = logging.getLogger(__name__)


def provide(database: Path) -> None:
    """Put MLflow's empty tables at ``database`` unless anything is there; where that fails, MLflow makes them."""
    # SQLite would play back into the copy what a killed process left of a database that is gone.
    remains = (database.with_name(database.name + end) for end in ("", "-journal", "-wal"))
    try:
        if not any(path.exists() for path in remains):
            LocalStore(database.parent).create(database.name, _empty_tables())
    except Exception as error:  # noqa: BLE001 - MLflow says it better, or can
        log.info("%s is not copied: %s", database, error)


def _empty_tables() -> bytes:
    """The database as bytes: that of the cache, or a new one, which is kept there."""
    cache, name = LocalStore(cache_folder() / "mlflow"), f"{mlflow.__version__}-{_schema()}.sqlite.gz"
    if kept := _kept(cache, name):
        return kept
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "mlflow.db")
        upgrade([sqlite_uri(file)], standalone_mode=False)
        made = file.read_bytes()
    try:
        cache.write(name, gzip.compress(made))
    except OSError as error:
        log.info("%s is not kept: %s", name, error)
    return made


def _kept(cache: Store, name: str) -> bytes:
    """Read the tables that the cache holds; b"" for nothing or something damaged, which gzip's checksum tells."""
    try:
        return gzip.decompress(cache.read(name))
    except FileNotFoundError:
        return b""
    except (OSError, EOFError, zlib.error) as error:
        log.info("%s is made anew: %s", name, error)
        return b""


def _schema() -> str:
    """A name for the tables of this MLflow: its migrations, which a version under development adds to."""
    versions = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    names = sorted(path.name for path in versions.iterdir() if path.suffix == ".py")
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
