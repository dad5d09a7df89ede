"""The embedded web as a server: many hosts on one port, distinguished by the Host header."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import CliplineError

__all__ = ["STOP", "serve"]

STOP = "stop"
"""Sent to the server to end it at once."""
_END_S = 30.0


@contextmanager
def serve(scenes: int, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the web of ``scenes`` good images on ``host:port`` (0: any free one); yields "host:port".

    The server ends with the block, and also when this process is killed: it watches a pipe to it.
    Raises CliplineError if the port is taken.
    """
    command = [sys.executable, "-m", "workflows.demo.server", "--scenes", str(scenes), "--port", str(port)]
    command += ["--host", host]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        ready = process.stdout.readline().split()
        if ready[:1] != ["ready"]:
            raise CliplineError(
                f"the embedded web site cannot listen on {host}, port {port}",
                found=" ".join(ready) or "the server ended without a message",
                fix="use another port, as with --set port=8643",
            )
        yield ready[1]
    finally:
        process.stdin.write(STOP)
        process.stdin.close()
        process.wait(timeout=_END_S)
        process.stdout.close()
