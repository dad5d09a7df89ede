"""The Ray cluster of a run: the one at ``RAY_ADDRESS``, or one on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra.cluster import alone
from infra.cluster.head import joined, listens
from infra.errors import CliplineError
from infra.garbage import no_collections

__all__ = ["connect"]


@contextmanager
def connect(cpus: int | None = None) -> Iterator[None]:
    """Join the cluster at ``RAY_ADDRESS``, or start one on this machine, for the duration of the block.

    ``cpus``: of a cluster started here; None: all. Raises CliplineError if no cluster answers at the address.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        alone.prepare()
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
        alone.start(cpus, **quiet)
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
