"""A loopback server that sends exactly the bytes a test gives it."""

import asyncio
import contextlib
import threading


def answer(body=b"<p>hello", status="200 OK", **headers):
    """Return the bytes of a response; ``X_Robots_Tag="noai"`` becomes a header, and a list several of them."""
    lines = [f"HTTP/1.1 {status}"]
    headers = {"Content_Type": "text/html", "Content_Length": str(len(body)), **headers}
    for name, values in headers.items():
        for value in values if isinstance(values, list) else [values]:
            if value is not None:
                lines.append(f"{name.replace('_', '-')}: {value}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


NOT_FOUND = answer(b"", "404 Not Found")


class Site:
    """Serves ``routes[path]``: bytes, a list of bytes taken in turn, or a coroutine function of the writer.

    Paths may be prefixed by a host. ``asked`` holds what was requested, ``host path`` in order.
    """

    def __init__(self, routes):
        self.routes = routes
        self.asked = []
        self.heads = []
        self.open = self.most_open = 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def _serve(self, reader, writer):
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader, writer):
        while True:
            first = await reader.readexactly(1)
            if first == b"\x16":  # a TLS greeting
                break
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            host = next(line[6:] for line in head.split("\r\n") if line.lower().startswith("host: "))
            self.asked.append(f"{host}{path}")
            self.heads.append(head)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            try:
                route = self.routes.get(f"{host}{path}", self.routes.get(path, NOT_FOUND))
                if isinstance(route, list):
                    route = route.pop(0) if len(route) > 1 else route[0]
                if callable(route):
                    await route(writer)
                    break
                writer.write(route)
                await writer.drain()
            finally:
                self.open -= 1


@contextlib.contextmanager
def event_loop_thread():
    """Run an event loop in a thread; yields ``call(coroutine)``, which waits for the result. Ends with no task left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def call(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    try:
        yield call
    finally:
        call(_cancel_all())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all():
    while others := asyncio.all_tasks() - {asyncio.current_task()}:  # one that accepts starts one that serves
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        await asyncio.sleep(0)  # closed connections are released in the next iteration of the loop


@contextlib.contextmanager
def serving(routes):
    """A :class:`Site` in a thread of its own, for code that runs its own event loop."""
    site = Site(routes)
    with event_loop_thread() as call:
        call(site.__aenter__())
        try:
            yield site
        finally:
            call(site.__aexit__())
