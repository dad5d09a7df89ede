"""Archives in a bucket and behind https://, read from a real S3 server through a proxy that breaks connections."""

import asyncio
import contextlib
import datetime
import ipaddress
import random
import ssl
from urllib.parse import urlsplit

import fsspec
import pytest
import s3fs
from adopting import adopted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from loopback import event_loop_thread
from wat_writer import document, record

from infra.errors import ConfigError, DataError, StorageError, TransientError
from infra.run.context import Context, ShardOutput
from pipelines import extract
from pipelines.formats import archives
from pipelines.formats.archives import open_archive
from pipelines.formats.warc import Writer

PAGES = 40


class Line:
    """A proxy that breaks connections: of the next ``cuts`` long responses only the beginning comes through."""

    LONG = 5_000

    def __init__(self, to):
        self._to = to
        self._serving = set()  # asyncio itself does not keep who waits for a connection that was aborted
        self.cuts = 0

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.CancelledError), contextlib.ExitStack() as stack:
            stack.callback(writer.transport.abort)
            self._serving.add(task := asyncio.current_task())
            stack.callback(self._serving.discard, task)
            far, out = await asyncio.open_connection(*self._to)
            stack.callback(out.transport.abort)
            passed = 0

            async def ask():
                nonlocal passed
                while data := await reader.read(1 << 16):
                    passed = 0
                    out.write(data)
                out.transport.abort()

            asking = asyncio.create_task(ask())
            stack.callback(asking.cancel)
            while data := await far.read(1 << 16):
                passed += len(data)
                if passed > self.LONG and self.cuts > 0:
                    self.cuts -= 1
                    writer.write(data[: self.LONG])
                    break
                writer.write(data)
                await writer.drain()


@contextlib.contextmanager
def lines(to, tls=None):
    """A :class:`Line`, and the port it listens on."""
    line = Line(to)

    async def stop(server):
        server.close()

    with event_loop_thread() as call:
        server = call(asyncio.start_server(line.serve, "127.0.0.1", 0, ssl=tls))
        try:
            yield line, server.sockets[0].getsockname()[1]
        finally:
            call(stop(server))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(archives, "backoff", lambda attempt: 0.0)
    monkeypatch.setattr(archives, "_BLOCK", 10_000)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # its own, with pauses of its own


@pytest.fixture
def line(s3_server, monkeypatch):
    """The breakable connection to the S3 server."""
    there = urlsplit(s3_server)
    with lines((there.hostname, there.port)) as (line, port):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield line
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """A folder as Common Crawl lays it out: a WARC and a WAT file of the same kind of pages, and lists of them."""
    folder = tmp_path_factory.mktemp("crawl")
    noise = random.Random(1)
    pages = []
    for number in range(PAGES):
        junk = noise.randbytes(1000).hex()
        html = f'<p>{junk}<img src="/{number}.jpg" alt="picture {number}"><img src="/logo.png" alt="the logo">'
        pages.append((f"http://site{number % 3}.example/{number}", html))
    with (folder / "a.warc.gz").open("wb") as sink:
        warc = Writer(sink, "a.warc.gz", "2026-01-01T00:00:00Z", {})
        for url, html in pages:
            warc.page(url, "2026-01-01T00:00:00Z", 200, [("Content-Type", "text/html")], html.encode(), [])
    (folder / "b.wat.gz").write_bytes(b"".join(record(document(f"{url}/b", html)) for url, html in pages))
    (folder / "all.paths").write_text("a.warc.gz\nb.wat.gz\n")
    assert min((folder / name).stat().st_size for name in ("a.warc.gz", "b.wat.gz")) > 5_000
    return folder


@pytest.fixture
def bucket(crawl, s3_url):
    """The same folder in a bucket, publicly readable."""
    s3fs.S3FileSystem(s3_additional_kwargs={"ACL": "public-read"}).put(f"{crawl}/", f"{s3_url}/crawl/", recursive=True)
    return f"{s3_url}/crawl"


def extracted(monkeypatch, folder, place, prefix=""):
    """Return all files of an extraction, run in this process, one shard after the other.

    ``place``: of a list of archives, where there is a ``prefix`` of its names, or of archives.
    """

    def run_shards(context, shards, work, limits):
        return [work(spec, ShardOutput(context.store, name)) for name, spec in shards]

    monkeypatch.setattr("pipelines.extract.stage.run_shards", run_shards)
    context = Context(folder)
    inputs = {"archive_list": adopted(place, "archive_list")} if prefix else {"pages": adopted(place, "archives")}
    manifest = extract.run(extract.Config(prefix=prefix), inputs, context)
    return {file.path: context.store.read(file.path) for file in manifest.files}, manifest


@pytest.fixture
def expected(crawl, tmp_path, monkeypatch):
    """The same from disk."""
    files, manifest = extracted(monkeypatch, tmp_path / "from_disk", crawl)
    assert manifest.facts["records"]["page"] == 2 * PAGES and manifest.funnel.kept > PAGES
    return files


@pytest.mark.parametrize("cuts", [0, 3])
def test_pairs_from_a_bucket_are_those_from_disk(bucket, line, expected, s3_url, tmp_path, monkeypatch, cuts):
    """Also where the line breaks; and what is written goes to a bucket as well."""
    line.cuts = cuts
    assert extracted(monkeypatch, tmp_path / "listed", f"{bucket}/all.paths", bucket)[0] == expected
    assert line.cuts == 0
    assert extracted(monkeypatch, f"{s3_url}/out", f"{bucket}/*.gz")[0] == expected


def test_a_line_that_stays_broken_is_an_error_that_may_pass(bucket, line, tmp_path, monkeypatch):
    line.cuts = 10_000
    with pytest.raises(TransientError, match=r"a\.warc\.gz is unreachable"):
        extracted(monkeypatch, tmp_path, f"{bucket}/a.warc.gz")


@pytest.mark.parametrize(
    ("path", "kind"),
    [("none.warc.gz", "archives"), ("none/*", "archives"), ("none", "archives"), ("none.paths", "archive_list")],
)
def test_what_is_not_in_the_bucket_is_said_when_the_plan_is_made(bucket, line, path, kind):
    with pytest.raises(ConfigError, match=rf"there (is|are) no {kind} at .*none"):
        adopted(f"{bucket}/{path}", kind)


def test_what_a_list_names_and_is_not_there_is_said_at_once(bucket, line, monkeypatch):
    monkeypatch.setattr(archives, "_ATTEMPTS", 10_000)
    with pytest.raises(DataError, match="none"), open_archive(f"{bucket}/none.warc.gz"):
        pass


def test_a_list_of_files_of_this_machine_is_refused(crawl, tmp_path, monkeypatch):
    (tmp_path / "all.paths").write_text(f"{crawl}/a.warc.gz\n")
    for prefix in ("https://a.example/", "s3://bucket"):
        with pytest.raises(DataError, match="does not say where its archives are"):
            extracted(monkeypatch, tmp_path / "out", tmp_path / "all.paths", prefix)
    with pytest.raises(ConfigError, match="prefix"):
        extract.Config(prefix=str(crawl))


def test_a_bucket_that_is_not_there_is_said_at_once(line, monkeypatch):
    monkeypatch.setattr(archives, "_ATTEMPTS", 10_000)
    with pytest.raises(DataError, match="nowhere"), open_archive("s3://nowhere-at-all/a.warc.gz"):
        pass


def test_missing_credentials_are_said_at_once(bucket, line, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="credentials"):
        adopted(f"{bucket}/all.paths", "archive_list")


@pytest.mark.parametrize("cuts", [0, 3])
def test_pairs_over_https_are_those_from_disk(bucket, s3_server, expected, tmp_path, monkeypatch, cuts):
    there = urlsplit(s3_server)
    server, client = certified(tmp_path)
    monkeypatch.setitem(fsspec.config.conf, "https", {"ssl": client})
    with lines((there.hostname, there.port), server) as (line, port):
        line.cuts = cuts
        prefix = f"https://127.0.0.1:{port}/{bucket.removeprefix('s3://')}"
        assert extracted(monkeypatch, tmp_path / "https", f"{prefix}/all.paths", prefix)[0] == expected
        assert line.cuts == 0


def certified(folder):
    """TLS for a server at 127.0.0.1, and for a client that trusts no other."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    home = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(home, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    public = certificate.public_bytes(pem)
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(secret + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    return server, ssl.create_default_context(cadata=public.decode())
