"""Limits of the HTTP client (memory, deadlines, policy files) against real servers; DNS and health checks alone."""

import asyncio
import gzip
import json
import os
import re
import resource
import socket
import time
import zlib
from types import SimpleNamespace

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Site, answer

from infra.errors import ConfigError, StageFailed, TransientError
from infra.schema import Drop
from pipelines.web import FetchError, Web
from pipelines.web.budget import ByteBudget
from pipelines.web.deadline import Deadlines
from pipelines.web.fetcher import Fetcher
from pipelines.web.guard import Guard
from pipelines.web.health import SuccessFloor, preflight
from pipelines.web.policy.opt_outs import Policy
from pipelines.web.policy.robots import RobotsRules, sitemaps
from pipelines.web.policy.tdmrep import Reservations

pytestmark = [pytest.mark.long, pytest.mark.alone]  # waits for deadlines


def web(site, **changes):
    return Web(**{"connect_to": {"*.example": f"127.0.0.1:{site.port}"}, "retries": 0, "retry_s": 0.0, **changes})


async def failure(site, url="http://a.example/x", kind="page", **changes):
    async with Fetcher(web(site, **changes)) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.get(url, kind)
    return caught.value.reason, caught.value.detail


# --- bytes in flight ---


async def test_bodies_wait_for_room_without_losing_their_deadline():
    body = b"x" * 60_000
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    stream = answer(chunked, Transfer_Encoding="chunked", Content_Length=None)
    routes = {f"/{n}": answer(body) if n % 2 else stream for n in range(8)}
    small = {"max_bytes_in_flight": 140_000, "max_page_bytes": 70_000, "max_image_bytes": 70_000}
    async with Site(routes) as site, Fetcher(web(site, obey_robots=False, deadline_s=0.5, **small)) as fetcher:
        held = most = 0

        async def use(number):
            nonlocal held, most
            async with fetcher.fetch(f"http://h{number}.example/{number}") as response:
                held += len(response.body)
                most = max(most, held)
                await asyncio.sleep(0.15)  # eight of these one after the other are longer than the deadline
                held -= len(response.body)

        await asyncio.gather(*(use(number) for number in range(8)))
        assert most <= 140_000
        assert fetcher._client.budget.free == 140_000
        with pytest.raises(FetchError):
            await fetcher.get("http://h0.example/none")
        assert fetcher._client.budget.free == 140_000


async def test_the_budget_is_first_come_first_served_and_survives_who_gives_up():
    budget = ByteBudget(30, 20)
    first = budget.share()
    assert first.try_grow(8)
    large = asyncio.create_task(budget.share().grow(9))
    await asyncio.sleep(0)
    second = budget.share()
    small = asyncio.create_task(second.grow(1))
    await asyncio.sleep(0)
    assert not budget.share().try_grow(1) and not small.done()  # there is room, but another was first
    large.cancel()
    await asyncio.wait([large, small], timeout=1)
    assert small.done() and budget.free == 21
    first.release()
    taken = asyncio.create_task(budget.share().grow(10))
    await asyncio.sleep(0)
    second.release()
    taken.cancel()  # after it was given its bytes, before it knew
    await asyncio.wait([taken])
    assert budget.free == 30


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), max_size=12), st.integers(40, 100))
def test_bodies_that_grow_never_wait_for_each_other_for_ever(bodies, total):
    """Bodies of up to 40 bytes that grow in steps: all get there, and together never hold more than there is."""

    async def scenario():
        budget, most = ByteBudget(total, 40), 0

        async def body(sizes):
            nonlocal most
            share = budget.share()
            for size in sorted(set(sizes)):
                await share.grow(size)
                held.append(size)
                assert budget.free >= 0
                await asyncio.sleep(0)
            share.shrink(sizes[0])
            await asyncio.sleep(0)
            share.release()

        held = []
        async with asyncio.timeout(5):
            await asyncio.gather(*map(body, bodies))
        assert len(held) == sum(len(set(sizes)) for sizes in bodies)
        assert budget.free == total

    asyncio.run(scenario())


async def test_a_body_of_unknown_length_books_what_it_needs():
    """Hundreds of small ones are in memory at once where each might be as large as all the memory there is."""
    body = b"<p>" * 1000
    chunked = answer(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), Transfer_Encoding="chunked", Content_Length=None)
    packed = answer(gzip.compress(body), Content_Encoding="gzip")
    sizes = {"max_bytes_in_flight": 16 << 20, "max_page_bytes": 8 << 20, "max_image_bytes": 8 << 20}
    async with Site({"/c": chunked, "/z": packed}) as site, Fetcher(web(site, obey_robots=False, **sizes)) as fetcher:
        everyone = asyncio.Barrier(100)

        async def use(number):
            async with fetcher.fetch(f"http://h{number}.example/{'cz'[number % 2]}") as response:
                assert response.body == body
                await everyone.wait()

        async with asyncio.timeout(20):
            await asyncio.gather(*map(use, range(100)))
        assert fetcher._client.budget.free == 16 << 20


@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate", "br"])
@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 65_537, 262_144, 1_000_000])
async def test_a_body_that_grows_is_whole(coding, length):
    """At the borders of what is booked, up to the limit, and not a byte beyond it."""
    body = bytes(range(256)) * (length // 256) + b"." * (length % 256)
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress}.get(coding, bytes)(body)
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [packed] if part) + b"0\r\n\r\n"
    route = answer(framed, Transfer_Encoding="chunked", Content_Length=None, Content_Encoding=coding)
    async with Site({"/x": route}) as site:
        for limit in (1_000_000, max(length, len(packed), 1)):
            async with Fetcher(web(site, obey_robots=False, max_page_bytes=limit)) as fetcher:
                assert (await fetcher.get("http://a.example/x")).body == body
        if length > len(packed) + 1 or (length > 1 and coding == "identity"):
            assert await failure(site, obey_robots=False, max_page_bytes=length - 1) == (
                Drop.TOO_LARGE,
                f"more than {length - 1} bytes",
            )


def test_there_must_be_room_for_the_largest_body():
    with pytest.raises(ConfigError, match="max_bytes_in_flight"):
        Web(max_bytes_in_flight=1000)


# --- headers, retries, deadlines ---


async def test_headers_are_bounded_in_number_and_size():
    async with Site({"/x": answer(X_Many=["1"] * 150), "/y": answer(X_Large=["x" * 4000] * 9)}) as site:
        assert (await failure(site))[0] is Drop.CONNECTION
        assert await failure(site, "http://a.example/y") == (Drop.TOO_LARGE, "more than 32768 bytes of headers")


async def test_retry_after_is_obeyed_up_to_a_clamp_and_given_up_above():
    later = answer(b"", "503 Busy", Retry_After="1")
    async with Site({"/x": [later, answer()]}) as site, Fetcher(web(site, retries=2, max_delay_s=1.5)) as fetcher:
        start = time.monotonic()
        assert (await fetcher.get("http://a.example/x")).status == 200
        assert time.monotonic() - start >= 1.0
    async with Site({"/x": answer(b"", "503 Busy", Retry_After="3600")}) as site:
        reason, detail = await failure(site, retries=5, max_delay_s=0.1)
        assert (reason, detail) == (Drop.RATE_LIMITED, "503, its Retry-After is longer than web.max_delay_s")
        assert site.asked.count("a.example/x") == 1


async def fates(fetcher, urls):
    async def fate(url):
        try:
            await fetcher.get(url)
        except FetchError as error:
            return error.reason

    return await asyncio.gather(*map(fate, urls))


@pytest.mark.parametrize("later", ["31536000", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_host_that_asks_for_a_long_rest_holds_nobody(later):
    """A thousand rows end in no time, after a request or two, and those of other hosts come through."""
    routes = {"a.example/x": answer(b"", "429 Slow", Retry_After=later), "b.example/x": answer()}
    async with Site(routes) as site, Fetcher(web(site, obey_robots=False, retries=2)) as fetcher:
        async with asyncio.timeout(10):
            found = await fates(fetcher, ["http://a.example/x"] * 1000 + ["http://b.example/x"])
            found += await fates(fetcher, ["http://a.example/x"])
        assert found == [Drop.RATE_LIMITED] * 1000 + [None] + [Drop.RATE_LIMITED]
        assert site.asked.count("a.example/x") <= 2


async def test_a_long_crawl_delay_holds_nobody():
    rules = answer(b"User-agent: *\nCrawl-delay: 31\n", Content_Type="text/plain")
    async with Site({"a.example/robots.txt": rules, "/x": answer()}) as site, Fetcher(web(site)) as fetcher:
        async with asyncio.timeout(10):
            found = await fates(fetcher, ["http://a.example/x"] * 1000 + ["http://b.example/x"])
        assert found == [Drop.RATE_LIMITED] * 1000 + [None]
        assert site.asked.count("a.example/x") == 0


async def test_a_host_that_asks_for_rest_again_and_again_holds_nobody():
    """No pause is too long, but no file comes either: after several of the longest pauses nobody waits any more."""
    short = {"retries": 2, "max_delay_s": 1.0, "breaker_failures": 2, "obey_robots": False}
    async with Site({"/x": answer(b"", "503 Busy", Retry_After="1")}) as site, Fetcher(web(site, **short)) as fetcher:
        started = time.monotonic()
        async with asyncio.timeout(20):
            found = await fates(fetcher, ["http://a.example/x"] * 300)
        assert 1.5 < time.monotonic() - started < 8
        assert set(found) <= {Drop.RATE_LIMITED, Drop.HTTP_ERROR} and found.count(Drop.RATE_LIMITED) > 290
        assert site.asked.count("a.example/x") <= 10


@pytest.mark.parametrize(
    "malformed",
    [
        b"HTTP/1.1 2000 Odd\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        answer(Content_Length="all"),
        answer(Content_Length="-1"),
        answer(b"1", Content_Length=["1", "2"]),
        answer(b"many\r\n", Transfer_Encoding="chunked", Content_Length=None),
        answer(b"-1\r\n", Transfer_Encoding="chunked", Content_Length=None),
        answer(b"", "200 OK", X_Many=["1"] * 150),
        answer(b"", "200 OK", X_Long="x" * 20_000),
        b"\x00" * 100 + b"\r\n\r\n",
    ],
)
async def test_malformed_answers_cost_their_own_rows_only(malformed):
    """The circuit breaker counts silence: six bad files of a host leave the other fifty-four."""
    one = {"obey_robots": False, "retries": 2, "host_concurrency": 1}
    async with Site({"/bad": malformed, "/good": answer()}) as site, Fetcher(web(site, **one)) as fetcher:
        found = await fates(fetcher, ["http://a.example/bad"] * 6 + ["http://a.example/good"] * 54)
        assert None not in found[:6] and Drop.HOST_DOWN not in found
        assert found[6:] == [None] * 54


async def test_a_host_without_tls_costs_the_rows_of_https_only():
    async def serve(reader, writer):
        greeting = await reader.readexactly(1) == b"\x16"
        if not greeting:
            await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"", "400 Bad Request") if greeting else answer(Connection="close"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    one = {"obey_robots": False, "host_concurrency": 1}
    site = SimpleNamespace(port=server.sockets[0].getsockname()[1])
    async with server, Fetcher(web(site, **one)) as fetcher:
        found = await fates(fetcher, ["https://a.example/good"] * 6 + ["http://a.example/good"] * 54)
    assert found == [Drop.CONNECTION] * 6 + [None] * 54


async def test_a_dead_host_with_many_urls_is_given_up():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # not listening
        port = bound.getsockname()[1]
        async with Fetcher(Web(connect_to={"*": f"127.0.0.1:{port}"}, retries=0, obey_robots=False)) as fetcher:

            async def fate(number):
                try:
                    await fetcher.get(f"http://a.example/{number}")
                except FetchError as error:
                    return error.reason

            fates = await asyncio.gather(*(fate(number) for number in range(2000)))
    assert set(fates) == {Drop.CONNECTION, Drop.HOST_DOWN}
    assert fates.count(Drop.CONNECTION) <= 20


async def test_running_out_of_files_is_not_the_hosts_fault(monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr("pipelines.web.http_client._FILES", 0)
    async with Site({"/x": answer()}) as site, Fetcher(web(site, obey_robots=False)) as fetcher:
        with open(os.devnull) as highest:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno() + 1, limits[1]))
            try:
                with pytest.raises(TransientError, match="connections"):
                    await fetcher.get("http://a.example/x")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (await fetcher.get("http://a.example/x")).status == 200


async def test_deadlines_end_their_own_block_only():
    deadlines = Deadlines()
    with pytest.raises(TimeoutError), deadlines.within(0.01):
        await asyncio.sleep(10)
    with deadlines.within(0.01) as moved:
        moved.at += 10
        await asyncio.sleep(0.12)
    with pytest.raises(TimeoutError), deadlines.within(10), deadlines.within(0.01):
        await asyncio.sleep(10)

    async def cancelled_from_outside():
        with deadlines.within(10):
            await asyncio.sleep(10)

    task = asyncio.create_task(cancelled_from_outside())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


# --- a site's own files ---


async def test_robots_redirects_of_other_hosts_are_followed_five_times():
    routes = {
        **{f"/{n}": answer(b"", "302 Found", Location=f"http://r{n}.example/{n + 1}") for n in range(1, 5)},
        "/robots.txt": answer(b"", "301 Moved", Location="/1"),
        "/5": answer(b"User-agent: *\nDisallow: /x", Content_Type="text/plain"),
        "/x": answer(),
    }
    async with Site(routes) as site:
        assert await failure(site, max_redirects=0) == (Drop.ROBOTS, "robots.txt")
        routes["/5"] = answer(b"", "302 Found", Location="/6")
        async with Fetcher(web(site)) as fetcher:
            assert (await fetcher.get("http://a.example/x")).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"".join(b"User-agent: a%d\n" % n for n in range(10_000)) + b"Disallow: /x\n" * 20_000,
        b"User-agent: *\n" + b"".join(b"Disallow: /%d\n" % n for n in range(25_000)),
        b"User-agent: *\n" + b"Disallow: /" + b"*a" * 240_000 + b"$\n",
        b"User-agent: " * 40_000,
        b"\n" * 500_000,
        b"Content-Usage: /*a*a*a*a*a*a*a*a$ train-ai=n\n" * 12_000,
        b"User-agent: *\n" + b"Content-Signal: " + b"ai-train=y," * 45_000,
        b"License: x\n" * 45_000,
    ],
    ids=["agents", "rules", "wildcards", "words", "lines", "usage", "signals", "licenses"],
)
def test_no_robots_txt_can_stall_us(body):
    start = time.thread_time()
    rules = RobotsRules.parse(200, body[: 500 * 1024], "clipline")
    for _ in range(10):
        rules.refusal("http://a.example/" + "a" * 3000, "clipline")
        rules.opt_out("http://a.example/" + "a" * 3000)
    assert time.thread_time() - start < 3.0


def test_robots_groups_survive_the_renaming():
    text = b"\xef\xbb\xbfUser-agent: other\nUser-agent: GPTBot/1.2\nDisallow: /art\n\nuser agent: third\nDisallow: /"
    rules = RobotsRules.parse(200, text + b"\nSitemap: http://a.example/s.xml\nsite-map:/t.xml", "clipline")
    assert rules.agents == ("GPTBot",)
    assert rules.opt_out("http://a.example/art") == "robots.txt: User-agent: GPTBot"
    assert rules.opt_out("http://a.example/") == ""
    assert RobotsRules.parse(200, text, "third").refusal("http://a.example/", "third")
    assert sitemaps(text + b"\nSitemap: http://a.example/s.xml\nsite-map:/t.xml") == [
        "http://a.example/s.xml",
        "/t.xml",
    ]


TDM = [
    {"location": "/open/*", "tdm-reservation": 0},
    {"location": "*.jpg$", "tdm-reservation": 1, "tdm-policy": "http://a.example/policy"},
    {"location": "/closed", "tdm-reservation": 1},
]


async def test_reservations_at_the_well_known_place_if_asked_for():
    routes = {"/.well-known/tdmrep.json": answer(json.dumps(TDM).encode()), "/closed/x": answer(), "/y": answer()}
    async with Site(routes) as site:
        said = (Drop.OPT_OUT, "tdmrep.json: tdm-reservation: 1")
        assert await failure(site, "http://a.example/closed/x", rights_files=["tdmrep.json"]) == said
        async with Fetcher(web(site, rights_files=["tdmrep.json"])) as fetcher:
            assert [(await fetcher.get("http://a.example/y")).status for _ in range(3)] == [200] * 3
        assert site.asked.count("a.example/.well-known/tdmrep.json") == 2
        async with Fetcher(web(site)) as fetcher:
            assert (await fetcher.get("http://a.example/closed/x")).status == 200
        routes["/.well-known/tdmrep.json"] = answer(b"{}" * 1_000_000)
        async with Fetcher(web(site, rights_files=["tdmrep.json"])) as fetcher:
            assert (await fetcher.get("http://a.example/closed/x")).status == 200


@pytest.mark.parametrize(
    ("path", "reserved"),
    [("/open/1.jpg", False), ("/a/1.jpg", True), ("/1.jpg?q", False), ("/closed/x", True), ("/", False)],
)
def test_the_first_rule_that_matches_decides(path, reserved):
    assert bool(Reservations.parse(200, json.dumps(TDM).encode()).refusal(f"http://a.example{path}")) is reserved


@given(st.text("ab*$/", max_size=12), st.text("ab/", max_size=12))
def test_patterns_match_as_a_regular_expression_would(pattern, path):
    body, end = (pattern[:-1], "$") if pattern.endswith("$") else (pattern, "")
    expression = ".*".join(re.escape(part) for part in body.split("*")) + ("\\Z" if end else "")
    rules = Reservations(((pattern, True),))
    assert bool(rules.refusal(f"http://h/{path}")) is bool(re.match(expression, f"/{path}"))


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b"[1, null, {}]", b"[" * 100_000, b'[{"location": 3}]', b"\xff"])
def test_reservations_that_are_none(body):
    assert not Reservations.parse(200, body).refusal("http://a.example/")


def test_one_policy_for_pages_images_and_links():
    policy = Policy("clipline")
    headers = [("X-Robots-Tag", "otherbot: noai, clipline: noimageai, nofollow"), ("tdm-reservation", "1")]
    tag = "X-Robots-Tag: otherbot: noai, clipline: noimageai, nofollow"
    assert policy.of_file(headers, image=True) == f"{tag}; tdm-reservation: 1"
    assert policy.of_file(headers, image=False) == "tdm-reservation: 1"
    assert policy.of_links([], [("robots", "index, nofollow")]) == "meta robots: index, nofollow"
    assert policy.of_page(headers[:1], [("gptbot", "noai"), ("somebot", "none")]) == f"{tag}; meta gptbot: noai"


# --- names ---


class Names:
    """A resolver with a list."""

    def __init__(self, names):
        self.names, self.asked = names, []

    def __call__(self, host, port, *_):
        self.asked.append(host)
        found = self.names.get(host, socket.EAI_NONAME)
        if isinstance(found, int):
            raise socket.gaierror(found, "no")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port))]


async def test_what_a_resolver_said_is_kept_for_a_while(monkeypatch):
    names = Names({"good.test": "93.184.216.34", "unsure.test": socket.EAI_AGAIN})
    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr("pipelines.web.guard._ERROR_TTL_S", 0.0)
    guard = Guard({"mapped.test": "127.0.0.1:81"}, (), 4)

    async def ask(host):
        try:
            return (await guard.resolve(host, 80))[0]["host"]
        except socket.gaierror as error:
            return error.errno

    for host, wanted, asked in [
        ("good.test", "93.184.216.34", 1),
        ("gone.test", socket.EAI_NONAME, 1),
        ("unsure.test", socket.EAI_AGAIN, 3),
        ("mapped.test", "127.0.0.1", 0),
    ]:
        assert await asyncio.gather(*(ask(host) for _ in range(5))) == [wanted] * 5  # together: asked once
        assert [await ask(host), await ask(host)] == [wanted] * 2
        assert names.asked.count(host) == asked
    monkeypatch.setattr("pipelines.web.guard._MAX_NAMES", 2)
    await ask("other.test")
    assert len(guard._cache) <= 3
    await guard.close()


async def test_a_queue_for_the_resolver_is_not_the_servers_delay(monkeypatch):
    """Lists are full of dead names, each of which occupies a resolver thread for seconds."""

    def slowly(host, *_):
        time.sleep(0.2)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    async with Site({"/": answer()}) as site:
        web = Web(allow_private=("127.0.0.0/8",), dns_threads=1, connect_s=0.5, deadline_s=60, obey_robots=False)
        urls = [f"http://h{number}.test:{site.port}/" for number in range(8)]
        async with Fetcher(web) as fetcher:
            assert [page.status for page in await asyncio.gather(*map(fetcher.get, urls))] == [200] * 8
        async with Fetcher(web.model_copy(update={"deadline_s": 0.1})) as fetcher:
            with pytest.raises(FetchError) as caught:
                await fetcher.get(urls[0])
        assert (caught.value.reason, caught.value.detail) == (Drop.TIMEOUT, "the host's name was not resolved in time")


def test_a_preflight_tells_a_dead_resolver_from_dead_links(monkeypatch):
    hosts = [f"h{n}.test" for n in range(100)]
    some = Web(connect_to={"h1?.test": "127.0.0.1"})
    names = Names({host: "93.184.216.34" for host in hosts[:70]})
    monkeypatch.setattr(socket, "getaddrinfo", names)
    report = preflight([*hosts, "127.0.0.1"], some)
    assert (report.asked, report.resolved, report.unknown, report.failed) == (90, 60, 30, 0)
    report.check()
    asked = sorted(names.asked)
    names.asked.clear()
    assert preflight(hosts[::-1], some, sample=20).asked == 20
    first = sorted(names.asked)
    names.asked.clear()
    preflight(hosts, some, sample=20)
    assert sorted(names.asked) == first and set(first) < set(asked)
    names.names = dict.fromkeys(hosts, socket.EAI_AGAIN)
    with pytest.raises(StageFailed, match="resolver") as caught:
        preflight(hosts, Web()).check()
    assert "100 of 100" in caught.value.found and "h0.test" not in caught.value.fix
    preflight([], Web()).check()


def test_a_stage_below_its_floor_ends_with_a_diagnosis():
    floor = SuccessFloor(share=0.1, after=1000)
    floor.add(0, {Drop.CONNECTION: 600, Drop.TIMEOUT: 100}, {"a.example": 500, "b.example": 3})
    floor.add(100, {Drop.CONNECTION: 200})  # exactly the floor
    with pytest.raises(StageFailed) as caught:
        floor.add(0, {Drop.CONNECTION: 1})
    assert "100 of 1001" in caught.value.message
    assert caught.value.found == "connection_failed 801, timeout 100; most at a.example (500), b.example (3)"
    assert "network" in caught.value.fix
    SuccessFloor(share=0.0, after=1).add(0, {"odd": 5})
