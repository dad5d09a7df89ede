"""What the download benchmarks ask for: pictures like photographs, served by nginx on loopback, and hosts that fail.

All of 127.0.0.0/8 is this machine, so every address of it is another host to both programs compared: no name is
resolved, and each host has its own connections, robots.txt and rate limit, as on the web.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

SIDES = (128, 2400)  # pixels of the longer side, evenly on a logarithmic scale


@lru_cache(maxsize=8)
def clouds(seed: int, side: int) -> np.ndarray:
    """Colour whose contrast falls with the size of its patches: 1.3 bits a pixel as a JPEG, much like a photograph."""
    rng = np.random.default_rng(seed)
    pixels, contrast, cells = np.full((side, side, 3), 128, np.float32), 45.0, 4
    while cells < 2 * side:
        noise = rng.standard_normal((min(cells, side) + 1, min(cells, side) + 1, 3)).astype(np.float32)
        pixels += contrast * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
        contrast, cells = 0.72 * contrast, 2 * cells
    return pixels.clip(0, 255).astype(np.uint8)


def picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A cut from one of eight skies, with a few hard edges."""
    sky = clouds(int(rng.integers(8)), SIDES[1] + 600)
    left, top = (int(rng.integers(sky.shape[0] - side)) for side in (width, height))
    pixels = sky[top : top + height, left : left + width].copy()
    for _ in range(6):
        centre = int(rng.integers(0, width)), int(rng.integers(0, height))
        radius = int(rng.integers(5, max(6, max(width, height) // 5)))
        cv2.circle(pixels, centre, radius, rng.integers(0, 255, 3).tolist(), -1, cv2.LINE_AA)
    return pixels


def make_pictures(folder: Path, count: int, sides: tuple[int, int] = SIDES) -> None:
    """``folder/{n}.jpg``, the same for the same arguments; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    low, high = map(math.log, sides)
    for number in range(count):
        path = folder / f"{number}.jpg"
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        side, shape = math.exp(rng.uniform(low, high)), rng.uniform(0.6, 1)
        size = (round(side), max(96, round(side * shape)))
        width, height = size if rng.random() < 0.6 else size[::-1]
        quality = int(rng.integers(75, 95))
        path.write_bytes(cv2.imencode(".jpg", picture(rng, width, height), [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def host(number: int) -> str:
    """Another address of this machine for each number below 62,500."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; keepalive_timeout 60s;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  types {{ image/jpeg jpg; text/html html; }}
  server {{ listen 0.0.0.0:{port} backlog=4096; root {root}; open_file_cache max=10000; }}
}}
"""


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[int]:
    """nginx serving ``root`` at every address of 127.0.0.0/8; yields its port. Its files go below ``folder``."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("this benchmark needs nginx")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, root=root))
    command = [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with subprocess.Popen(command) as server:
        try:
            _wait_for(port)
            yield port
        finally:
            server.terminate()


@contextmanager
def slow(body: bytes, seconds: float) -> Iterator[int]:
    """A server that gives ``body`` to every question ``seconds`` late; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = b"robots.txt" not in head.split(b"\r\n")[0]
            await asyncio.sleep(seconds if found else 0)
            status, content = (b"200 OK", body) if found else (b"404 Not Found", b"")
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n" % (status, len(content)))
            writer.write(b"Content-Type: image/jpeg\r\n\r\n" + content)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.start_server(answer, "0.0.0.0", 0, backlog=4096)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@contextmanager
def dead() -> Iterator[int]:
    """A port where nobody answers: its queue of connections is full, so the kernel drops what knocks."""
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        knocks = [socket.socket() for _ in range(4)]
        for knock in knocks:
            knock.setblocking(False)
            knock.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for knock in knocks:
                knock.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("nginx does not start")


class Meter:
    """CPU seconds and peak memory of a command and all its descendants, also those that cut their ties to it.

    They are known by a mark in their environment and read from /proc a few times a second; what a process used after
    the last look at it is missed, a hundredth of a second or so.
    """

    MARK = "CLIPLINE_BENCHMARK"
    EVERY_S = 0.2

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self.cpu: dict[int, float] = {}
        self.peak_bytes = 0
        self.peaks: dict[int, int] = {}
        self._ours: dict[str, bool] = {}  # by process number, which is not used again so soon
        mark = f"{os.getpid()}-{time.monotonic_ns()}"
        started = time.monotonic()
        with log.open("wb") as sink:
            process = subprocess.Popen(command, env={**env, self.MARK: mark}, stdout=sink, stderr=sink)
            while process.poll() is None:
                self._look(f"{self.MARK}={mark}".encode())
                time.sleep(self.EVERY_S)
        self.seconds = time.monotonic() - started
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}:\n{log.read_text()[-3000:]}")

    @property
    def cpu_s(self) -> float:
        return sum(self.cpu.values())

    def _look(self, mark: bytes) -> None:
        memory = 0
        for name in os.listdir("/proc"):  # looking must cost little: the cores are what is measured
            if not name.isdigit() or self._ours.get(name) is False:
                continue
            folder, pid = Path("/proc", name), int(name)
            try:
                if name not in self._ours:
                    self._ours[name] = mark in (folder / "environ").read_bytes().split(b"\0")
                    continue
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                self.cpu[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                own = _own_bytes(folder)
                self.peaks[pid] = max(own, self.peaks.get(pid, 0))
                memory += own
            except (OSError, ValueError):
                continue  # it ended while we looked
        self.peak_bytes = max(self.peak_bytes, memory)


def _own_bytes(folder: Path) -> int:
    """Memory that is a process's own; Ray's shared object store does not count for each of its users."""
    fields = (folder / "statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
