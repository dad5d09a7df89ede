"""The server under the hostile behaviours: it knows which of them was asked, and lets them do what they like.

Every behaviour has a host of its own (``http://endless-body.example/x.jpg``), so that robots.txt, connections and
limits per host are its own too. Beside ``/x.html`` or ``/x.jpg``, where it misbehaves, each host serves
``/healthy.html`` and ``/healthy.jpg``: the neighbours that must come through whatever happens next door.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import inspect
import re
import socket
import ssl
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bombs import HEALTHY_IMAGE, HEALTHY_PAGE

from infra.schema import Drop, Status

Kind = Literal["page", "image"]
Listener = Literal["plain", "tls", "deaf", "closed"]


@dataclass(frozen=True)
class Behaviour:
    """One thing the web can do to us, and what must come of it."""

    name: str
    does: Callable[[Wire], bytes | Awaitable[bytes | None] | None]
    kinds: tuple[Kind, ...]
    reason: Drop | None  # None: it comes through
    detail: str  # a pattern of the words that go with the reason
    at: Literal["fetch", "after"]  # who finds out: the client, or who reads what it brought
    crawled: Drop | None  # what a crawl says, which follows no redirect by itself
    place: Literal["file", "robots"]  # where it misbehaves
    neighbour: bool  # the same host's healthy file must come through
    within_s: float  # deadline for one fetch and what comes after it
    listener: Listener
    scheme: str
    bomb: bool  # its appetite for memory is measured

    @property
    def host(self) -> str:
        return f"{self.name.replace('_', '-')}.example"

    def url(self, kind: Kind, file: str = "x") -> str:
        return f"{self.scheme}://{self.host}/{file}.{'html' if kind == 'page' else 'jpg'}"

    @property
    def status(self) -> Status:
        """What an image's row says."""
        if self.reason is None:
            return Status.SUCCESS
        return Status.FAILED_TO_DOWNLOAD if self.at == "fetch" else Status.FAILED_TO_RESIZE

    @property
    def does_what(self) -> str:
        return inspect.getdoc(self.does) or ""


@dataclass
class Wire:
    """One request, as a behaviour sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    path: str
    kind: Kind
    turn: int  # how often this path was asked for, from 1
    on_connection: int  # how many requests this connection has carried, from 1

    @property
    def good(self) -> bytes:
        """What an honest server would send as the body."""
        return HEALTHY_PAGE if self.kind == "page" else HEALTHY_IMAGE

    def head(self, status: str = "200 OK", **headers: str | list[str]) -> bytes:
        """An answer up to its body; ``X_Robots_Tag="noai"`` becomes a header, and a list several of them."""
        given = {"Content_Type": "text/html" if self.kind == "page" else "image/jpeg", **headers}
        lines = [f"HTTP/1.1 {status}"]
        for name, values in given.items():
            for value in [values] if isinstance(values, str) else values:
                lines.append(f"{name.replace('_', '-')}: {value}")
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"

    def answer(self, body: bytes | None = None, status: str = "200 OK", **headers: str | list[str]) -> bytes:
        """An answer whose Content-Length is right."""
        body = self.good if body is None else body
        return self.head(status, **{"Content_Length": str(len(body)), **headers}) + body

    def chunked(self, *chunks: bytes, **headers: str) -> bytes:
        """The head of a chunked answer, and ``chunks`` as they are written here."""
        return self.head(Transfer_Encoding="chunked", **headers) + b"".join(chunks)

    def moved(self, target: str, status: str = "302 Found") -> bytes:
        return self.answer(b"", status, Location=target)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes, pause_s: float) -> None:
        """One byte at a time."""
        for byte in data:
            await self.send(bytes([byte]))
            await asyncio.sleep(pause_s)

    async def forever(self, data: bytes) -> None:
        """As fast as it is taken, until the other side has had enough."""
        while True:
            await self.send(data)
            await asyncio.sleep(0)  # drain alone does not let others in while there is room

    async def silence(self) -> None:
        """Keep the connection open and say nothing more."""
        while await self.reader.read(1 << 16):
            pass

    def reset(self) -> None:
        """End the connection with RST rather than FIN."""
        _linger(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()


class HangUp(Exception):
    """Raised by a behaviour that wants the connection closed in order."""


@dataclass
class Hostile:
    """Serves behaviours on loopback in a thread of its own. ``asked``: requests by ``host path``."""

    behaviours: dict[str, Behaviour]
    asked: Counter[str] = field(default_factory=Counter)
    cookies: list[str] = field(default_factory=list)  # no request may bring one back
    ports: dict[Listener, int] = field(default_factory=dict)

    @property
    def connect_to(self) -> dict[str, str]:
        """For ``Web.connect_to``."""
        odd = {b.host: f"127.0.0.1:{self.ports[b.listener]}" for b in self.behaviours.values() if b.listener != "plain"}
        return {**odd, "*.example": f"127.0.0.1:{self.ports['plain']}"}

    @contextlib.contextmanager
    def serving(self) -> Iterator[Hostile]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        with contextlib.ExitStack() as sockets:
            self.ports["deaf"] = sockets.enter_context(_deaf())
            self.ports["closed"] = sockets.enter_context(_closed())
            servers = asyncio.run_coroutine_threadsafe(self._start(), loop).result()
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(_stop(servers), loop).result()
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()

    async def _start(self) -> list[asyncio.Server]:
        servers = []
        for name, tls in (("plain", None), ("tls", _self_signed())):
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
            self.ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
        return servers

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError, HangUp
        ):
            for on_connection in range(1, 1000):
                first = await reader.readexactly(1)
                if first == b"\x16":  # a TLS greeting on a plain port
                    await reader.read(1 << 16)
                    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    break
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                said = await self._say(head, reader, writer, on_connection)
                if writer.is_closing():
                    return
                if said is not None:
                    writer.write(said)
                    await writer.drain()
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()  # what was written must arrive before the close that may reset
        writer.close()

    async def _say(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_connection: int
    ) -> bytes | None:
        path = head.split(" ")[1]
        host = re.search(r"^host: ([^:\r]+)", head, re.IGNORECASE | re.MULTILINE)[1]
        self.cookies += re.findall(r"^cookie: .*", head, re.IGNORECASE | re.MULTILINE)
        self.asked[f"{host} {path}"] += 1
        kind = "image" if path.endswith(".jpg") else "page"
        wire = Wire(reader, writer, path, kind, self.asked[f"{host} {path}"], on_connection)
        behaviour = self.behaviours.get(host.removesuffix(".example").replace("-", "_"))
        misplaced = behaviour is None or (path == "/robots.txt") != (behaviour.place == "robots")
        if misplaced or path.startswith("/healthy."):
            return wire.answer(b"", "404 Not Found") if path == "/robots.txt" else wire.answer()
        said = behaviour.does(wire)
        return await said if inspect.isawaitable(said) else said


async def _stop(servers: list[asyncio.Server]) -> None:
    for server in servers:
        server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _linger(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def _deaf() -> Iterator[int]:
    """A port that takes no more connections and refuses none, as behind a firewall that drops packets."""
    with socket.socket() as listener, contextlib.ExitStack() as callers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # fill the queue of those waiting to be accepted
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextlib.contextmanager
def _closed() -> Iterator[int]:
    """A port that is taken and on which nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _self_signed() -> ssl.SSLContext:
    """A certificate nobody vouches for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "*.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("*.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pem")
        path.write_bytes(secret + certificate.public_bytes(pem))
        context.load_cert_chain(path)
    return context
