"""The Ray cluster of a run: the one at ``RAY_ADDRESS``, or one on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.cluster.head import joined, listens
from infra.errors import CliplineError
from infra.garbage import no_collections

__all__ = ["ALONE", "connect"]

ALONE = {
    # On one machine Ray stays on loopback, where no other machine reaches it and a change of the network does not cut
    # it in two; without this it does so on macOS and Windows only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A laptop that slept or a virtual machine that was paused must not end a run: by the clock, Ray's head was away.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
}
"""Environment for a Ray cluster on this machine alone. Ray reads it when it is imported."""


@contextmanager
def connect(cpus: int | None = None) -> Iterator[None]:
    """Join the cluster at ``RAY_ADDRESS``, or start one on this machine, for the duration of the block.

    ``cpus``: of a cluster started here; None: all. Raises CliplineError if no cluster answers at the address.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.update({name: value for name, value in ALONE.items() if name not in os.environ})
        _ensure_token()
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray announces the token it made for a local cluster as a warning; it is intended.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "clipline"}
    if address:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise CliplineError(
                f"no Ray cluster answers at {address}", found=str(error), fix="unset RAY_ADDRESS to start one here"
            ) from error
    else:
        from infra.cluster.alone import start

        start(cpus, **quiet)
    head = joined()
    try:
        yield
    finally:
        # Of a head that is gone Ray would take leave until it ends the process: what the run has to say comes first.
        if listens(head):
            # Ray ends the process, with 1, if a reference of its own is freed while it shuts down. Tracebacks hold
            # some, in cycles that the collector frees in whatever thread it happens to run.
            with no_collections():
                ray.shutdown()


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
