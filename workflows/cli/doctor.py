"""Checks of a machine before a run; each reports what it found within a second or two."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from urllib.parse import urlsplit

from infra.cluster.head import why_unreachable
from infra.cluster.objects import SHARED, advice, memory_bytes, wanted_bytes
from infra.errors import CliplineError, redact
from infra.extras import EXTRAS, install, missing
from infra.store import LocalStore, Store
from infra.tracking import Address

__all__ = ["Check", "checks", "preflight", "ray_cluster"]

_PACKAGES = ("ray", "mlflow", "pyarrow")
_DISTRIBUTIONS = {"open_clip": "open_clip_torch"}
"""Where a package has another name than its module."""


@dataclass(frozen=True)
class Check:
    name: str
    verdict: Literal["ok", "warn", "bad"]
    detail: str


def checks(root: Store) -> Iterator[Check]:
    """Check everything a run needs, cheapest first."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "bad", "not installed: pip install clipline")
    for extra in EXTRAS:
        yield _extra(extra)
    yield _store(root)
    yield _disk(root)
    yield _memory()
    yield _gpus()
    yield ray_cluster()
    yield _mlflow(root)


def preflight(root: Store) -> Iterator[Check]:
    """Check what a submitted run needs besides packages; the folder it works in is removed with it."""
    yield _store(root)
    address = Address.find(root)
    if address.artifacts and not isinstance(root, LocalStore):
        yield Check("mlflow", "bad", f"runs would go to {redact(address.uri)}: set MLFLOW_TRACKING_URI to a server")
    else:
        yield _mlflow(root)


def _mlflow(root: Store) -> Check:
    address = Address.find(root)
    remote = address.uri if address.uri.startswith("http") else None
    return _reachable("mlflow server", remote, f"runs go to {redact(address.uri)}")


def _extra(name: str) -> Check:
    """Check that the packages of an extra are installed; no run needs all of them."""
    if absent := missing(name):
        return Check(f"[{name}]", "warn", f"{', '.join(absent)} not installed: {install([name])}")
    found = (f"{module} {version(_DISTRIBUTIONS.get(module, module))}" for module in EXTRAS[name])
    return Check(f"[{name}]", "ok", ", ".join(found))


def _store(root: Store) -> Check:
    """Check that the store can write, create exclusively, read and delete, as a run does."""
    path = f".doctor-{secrets.token_hex(4)}"
    try:
        root.write(path, b"1")
        exclusive = not root.create(path, b"2") and root.read(path) == b"1"
        root.delete(path)
    except (OSError, CliplineError) as error:
        return Check("store", "bad", f"{redact(root.url)}: {error}")
    if not exclusive:
        return Check("store", "bad", f"{redact(root.url)} overwrites where it should create: leases are not safe there")
    return Check("store", "ok", f"{redact(root.url)} writes, creates exclusively and reads")


def _disk(root: Store) -> Check:
    if not isinstance(root, LocalStore):
        return Check("disk", "ok", "the store is remote")
    there = next(folder for folder in (root.root, *root.root.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    return Check("disk", "ok" if free > 5e9 else "warn", f"{free / 1e9:,.0f} GB free below {root.url}")


def _memory() -> Check:
    total = memory_bytes()
    detail = f"{total / 1e9:,.0f} GB, {os.cpu_count()} CPUs"
    if not SHARED.is_dir():  # not Linux: Ray does without
        return Check("memory", "ok" if total > 4e9 else "warn", detail)
    shared = shutil.disk_usage(SHARED).free
    if shared < wanted_bytes(total):
        return Check("memory", "warn", f"{detail}; {advice(shared, total)}")
    return Check("memory", "ok" if total > 4e9 else "warn", f"{detail}, {shared / 1e9:,.1f} GB of shared memory")


def _gpus() -> Check:
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")
    except (FileNotFoundError, subprocess.SubprocessError):
        return Check("gpu", "warn", "none: training runs on the CPU")
    return Check("gpu", "ok", "; ".join(filter(None, found)))


def ray_cluster() -> Check:
    """Check that the cluster at ``RAY_ADDRESS`` answers."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Check("ray", "ok", "a local cluster is started for each run")
    if reason := why_unreachable(address):
        return Check("ray", "bad", redact(reason))
    return Check("ray", "ok", f"{redact(address)} answers")


def _reachable(name: str, address: str | None, otherwise: str) -> Check:
    if not address:
        return Check(name, "ok", otherwise)
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname or "", port), timeout=3).close()
    except (OSError, ValueError) as error:
        return Check(name, "bad", f"{redact(address)}: {error}")
    return Check(name, "ok", f"{redact(address)} answers")
