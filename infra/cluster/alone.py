"""A Ray cluster on this machine alone, of no more processes than a run needs."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.cluster.objects import SHARED, advice, lie_in_files, memory_bytes

__all__ = ["ALONE", "prepare", "start"]

log = logging.getLogger(__name__)

ALONE = {
    # On one machine Ray stays on loopback, where no other machine reaches it and a change of the network does not cut
    # it in two; without this it does so on macOS and Windows only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A laptop that slept or a virtual machine that was paused must not end a run: by the clock, Ray's head was away.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
}
"""Environment for a Ray cluster on this machine alone. Ray reads it when it is imported."""
_LONGEST = 40  # bytes of TMPDIR: Ray adds 63, and the address of a socket has 107
_SPARED = ("start_api_server", "start_log_monitor", "start_monitor")
"""Methods of Ray's node that start a process which a run alone has no use for, and waits for.

The API server would serve no dashboard here, only tell Ray's makers of the cluster; the log monitor would hand on what
workers print, which nobody asks for; the monitor is the autoscaler, which has nothing to scale.
"""


def prepare() -> None:
    """Set the environment of a cluster that :func:`start` is to start, before Ray is imported."""
    os.environ.update({name: value for name, value in ALONE.items() if name not in os.environ})
    _ensure_token()


def start(cpus: int | None, **options: Any) -> None:  # noqa: ANN401
    """Start the cluster with ``options`` of ``ray.init``, and join it. ``cpus``: None: all."""
    import ray

    with _spared():
        # "local": without it Ray would join whatever cluster another user started on this machine
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **_folder(), **options)
    node: Any = ray._private.worker._global_node
    if lie_in_files(node):
        log.warning("%s", advice(shutil.disk_usage(SHARED).free, memory_bytes()))


@contextmanager
def _spared() -> Iterator[None]:
    """Have Ray start none of what is :data:`_SPARED` inside the block: its options do not say so.

    A Ray that has no such method any more starts what it will.
    """
    from ray._private.node import Node

    methods = {name: getattr(Node, name) for name in _SPARED if hasattr(Node, name)}
    for name in methods:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Node, name, method)


def _folder() -> dict[str, Any]:
    """Return the option that gives Ray a short folder for sockets, whose paths may have 108 bytes."""
    if len(tempfile.gettempdir()) <= _LONGEST:
        return {}
    return {"_temp_dir": tempfile.mkdtemp(prefix="ray-", dir="/tmp")}


def _ensure_token() -> None:
    """Give Ray a token for this process's cluster if it could not write its own to the home folder."""
    if {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    folder = Path.home() / ".ray"
    if (folder / "auth_token").exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
