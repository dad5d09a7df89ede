"""What a run needs beside itself, as processes that can be killed: ``python services.py mlflow PORT DATABASE``,
``python services.py proxy PORT TARGET``.

The proxy stands before an S3 server that keeps its objects in memory: killed, it cuts all requests in flight, some of
them between the write and its answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


class Service:
    """One of the processes, on a port of its own that it keeps."""

    def __init__(self, *words: str, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        kind, *rest = words
        self._command = [sys.executable, __file__, kind, str(self.port), *rest]
        self._log = log
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        # Out of the tests' own environment, in which MLflow's address is this service's.
        env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=env, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + 180
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self._log.read_text()[-3000:]
                time.sleep(0.1)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def mlflow(port: str, database: str) -> None:
    """MLflow's server application, in one process instead of ten."""
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    handlers._get_tracking_store(f"sqlite:///{database}", str(Path(database).with_name("mlartifacts")))
    handlers._get_model_registry_store(f"sqlite:///{database}")
    make_server("127.0.0.1", int(port), app, threaded=True).serve_forever()


def proxy(port: str, target: str) -> None:
    asyncio.run(_serve(int(port), int(target)))


async def _serve(port: int, target: int) -> None:
    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async def join(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(source, back), pump(there, sink))

    server = await asyncio.start_server(join, "127.0.0.1", port, reuse_address=True)
    await server.serve_forever()


if __name__ == "__main__":
    {"mlflow": mlflow, "proxy": proxy}[sys.argv[1]](*sys.argv[2:])
