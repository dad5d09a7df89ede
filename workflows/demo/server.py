"""The process that serves the embedded web; :func:`workflows.demo.site.serve` starts it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import threading
import time

import cv2
from aiohttp import web as http

from workflows.demo.answers import Reply, answer
from workflows.demo.site import STOP
from workflows.demo.website import Web, build

__all__ = ["main"]

_SLOW_S = 60.0  # after which a slow answer ends, if the client still listens
_LINGER_S = 5.0


async def _run(web: Web, host: str, port: int) -> None:
    """Serve for ever."""

    async def handle(request: http.BaseRequest) -> http.StreamResponse:
        return await _send(request, answer(web, f"http://{request.host}{request.raw_path}"))

    try:
        listener = await _listen(host, port)
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")
        return
    runner = http.ServerRunner(http.Server(handle, access_log=None), shutdown_timeout=0)
    await runner.setup()
    await http.SockSite(runner, listener).start()
    sys.stdout.write(f"ready {host}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def _listen(host: str, port: int) -> socket.socket:
    for _ in range(int(2 * _LINGER_S / 0.1)):
        try:
            return socket.create_server((host, port), backlog=512)
        except OSError:
            await asyncio.sleep(0.1)  # the server of a recipe that was just killed lingers
    return socket.create_server((host, port), backlog=512)


async def _send(request: http.BaseRequest, reply: Reply) -> http.StreamResponse:
    # A fixed Date: the pages kept as WARC hold the headers, and equal runs must keep equal bytes.
    headers = [
        ("Content-Type", reply.type),
        ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("Server", "example"),
        *reply.headers,
    ]
    if not (reply.cut or reply.slow):
        return http.Response(status=reply.status, headers=headers, body=reply.body)
    response = http.StreamResponse(status=reply.status, headers=headers)
    response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    if reply.slow:
        await asyncio.sleep(_SLOW_S)
    if request.transport:
        request.transport.close()
    return response


def _end_with_stdin() -> None:
    """End this process when stdin closes, at any point: there is no state to save.

    If stdin closes without the stop word, the recipe was killed. Its workers live a moment longer and would record the
    site as unreachable, so the server lingers.
    """
    received = b""
    while data := os.read(0, 1024):
        received += data
    if received != STOP.encode():
        time.sleep(_LINGER_S)
    os._exit(0)


def main() -> None:
    """``python -m workflows.demo.server``: serve until stdin closes."""
    parser = argparse.ArgumentParser(description="Serve the embedded web until stdin closes.")
    parser.add_argument("--scenes", type=int, default=2000, help="how many different good images it holds")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    options = parser.parse_args()
    # The process that started us decides when to stop; an interrupt meant for it reaches the whole terminal group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    cv2.setNumThreads(1)
    asyncio.run(_run(build(options.scenes), options.host, options.port))


if __name__ == "__main__":
    main()
