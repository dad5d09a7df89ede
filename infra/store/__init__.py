"""Folders on a local disk or in an object store, behind one interface. See :mod:`infra.store.base`."""

from __future__ import annotations

import re
from pathlib import Path

from infra.errors import UsageError
from infra.store.base import Publication, Store
from infra.store.local import LocalStore, sync
from infra.store.remote import ObjectStore, unreachable

__all__ = ["LocalStore", "ObjectStore", "Publication", "Store", "open_store", "sync", "unreachable"]


def open_store(url: str | Path) -> Store:
    """Open the store at a local path, a ``file://`` URL or any fsspec URL. Raises UsageError for ``s3:/bucket``."""
    text = str(url)
    if re.match(r"[a-z][a-z0-9+]+:/(?!/)", text):  # a slip, or what pathlib makes of an address: no folder is meant
        scheme, _, rest = text.partition(":/")
        raise UsageError(f"{text!r} is no address of a store", expected=f"{scheme}://{rest}, or a folder")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return ObjectStore(text) if "://" in text else LocalStore(text)
