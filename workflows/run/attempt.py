"""One attempt at a stage, as the Ray task between the driver and the stage's own function."""

from __future__ import annotations

import logging
import platform
from typing import Any

from infra.cluster.mailbox import Reporter
from infra.events import Log
from infra.extras import extras_of, require
from infra.run.context import Context
from infra.run.manifest import Artifact
from infra.store import Store
from workflows.stage import Run

__all__ = ["run_attempt"]


def run_attempt(
    function: Run,
    config: Any,  # noqa: ANN401 - the stage's own Config
    inputs: dict[str, Artifact],
    folder: Store,
    stage: str,
    digest: str,
    identity: dict[str, Any],
    provenance: dict[str, Any],
    mailbox: Any,  # noqa: ANN401 - Ray's actor handles are untyped
) -> bytes:
    """Run the stage inside a Ray worker; the manifest as bytes. ``mailbox`` is the actor of the driver.

    Raises ConfigError if this node lacks packages that the stage needs.
    """
    require(extras_of(config), f"stage {stage} on {platform.node()}")
    reporter = Reporter(mailbox, digest)
    context = Context(
        folder,
        stage=stage,
        digest=digest,
        identity=identity,
        config=config.resolved(),
        location=config.location(),
        provenance=provenance,
        emit=reporter.emit,
        stopping=reporter.stopping,
        flush=reporter.flush,
    )
    handler = _Forward(context)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        return function(config, inputs, context).to_bytes()
    finally:
        root.removeHandler(handler)
        reporter.close()


class _Forward(logging.Handler):
    """Turns log records into events of the run."""

    def __init__(self, context: Context) -> None:
        super().__init__(logging.INFO)
        self._context = context

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] != "ray":
            self._context.send(
                Log(
                    stage=self._context.stage,
                    level=record.levelname,
                    logger=record.name,
                    message=record.getMessage(),
                )
            )
