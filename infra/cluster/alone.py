"""A Ray cluster on this machine alone, of no more processes than a run needs. Importing this loads Ray."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.node import Node

from infra.cluster.objects import SHARED, advice, lie_in_files, memory_bytes
from infra.errors import CliplineError

__all__ = ["start"]

log = logging.getLogger(__name__)

_LONGEST = 40  # bytes of TMPDIR: Ray adds 63, and the address of a socket has 107
_SPARED = ("start_log_monitor", "start_monitor")
"""Methods of Ray's node that start a process which a run alone has no use for.

The log monitor would hand on what workers print, which nobody asks for; the monitor is the autoscaler, which has
nothing to scale. Nor would the API server serve a dashboard here, only tell Ray's makers of the cluster; and Ray waits
for it.
"""


def start(cpus: int | None, **options: Any) -> None:  # noqa: ANN401
    """Start the cluster with ``options`` of ``ray.init``, and join it. ``cpus``: None: all.

    Raises CliplineError if the machine is too busy for it.
    """
    try:
        with _spared():
            # "local": without it Ray would join whatever cluster another user started on this machine
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **_folder(), **options)
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray has no class of its own for it
            raise
        raise CliplineError(
            "Ray did not start on this machine within its 30 seconds",
            expected="a machine with some CPU and memory to spare",
            found=f"{os.cpu_count()} cores, {os.getloadavg()[0]:.0f} processes that wait for one",
            fix="run it again when less else runs; what is committed stays",
        ) from error
    node: Any = ray._private.worker._global_node
    if lie_in_files(node):
        log.warning("%s", advice(shutil.disk_usage(SHARED).free, memory_bytes()))


@contextmanager
def _spared() -> Iterator[None]:
    """Have Ray start neither what is :data:`_SPARED` nor the API server inside the block: its options do not say so.

    A Ray that has no such method any more starts what it will.
    """
    instead = dict.fromkeys(_SPARED, lambda _: None) | {"start_api_server": _name_no_server}
    methods = {name: getattr(Node, name) for name in instead if hasattr(Node, name)}
    for name in methods:
        setattr(Node, name, instead[name])
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Node, name, method)


def _name_no_server(node: Any, **_: object) -> None:  # noqa: ANN401 - Ray's node is untyped
    """Enter an address where nothing listens: without any Ray's agent asks for it each second, and logs a traceback."""
    entry = ray_constants.DASHBOARD_ADDRESS.encode(), b"127.0.0.1:0", True, ray_constants.KV_NAMESPACE_DASHBOARD
    node.get_gcs_client().internal_kv_put(*entry)


def _folder() -> dict[str, Any]:
    """Return the option that gives Ray a short folder for sockets, whose paths may have 108 bytes."""
    if len(tempfile.gettempdir()) <= _LONGEST:
        return {}
    return {"_temp_dir": tempfile.mkdtemp(prefix="ray-", dir="/tmp")}
