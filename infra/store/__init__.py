"""Folders on a local disk or in an object store, behind one interface. See :mod:`infra.store.base`."""

from __future__ import annotations

from pathlib import Path

from infra.store.base import Publication, Store
from infra.store.local import LocalStore, sync
from infra.store.remote import ObjectStore, unreachable

__all__ = ["LocalStore", "ObjectStore", "Publication", "Store", "open_store", "sync", "unreachable"]


def open_store(url: str | Path) -> Store:
    """Open the store at a local path, a ``file://`` URL or any fsspec URL."""
    text = str(url)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return ObjectStore(text) if "://" in text else LocalStore(text)
