"""Whole commands against a site on loopback: no secret of an address is written, and no failure passes for success."""

import gzip
import io
import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from loopback import answer, serving
from PIL import Image

pytestmark = pytest.mark.ray

PASSWORD, TOKEN = "hunter2hunter2", "tok3ntok3ntok3n"  # in the user part of an address; in its parameters


def command(*words, cwd):
    env = {**os.environ, "NO_COLOR": "1"}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "workflows.cli", *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=280
    )
    return done.returncode, done.stdout + done.stderr


def settings(**values):
    texts = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]
    return [word for text in texts for word in ("--set", text)]


def picture(colour):
    out = io.BytesIO()
    Image.new("RGB", (300, 240), colour).save(out, "PNG")
    return answer(out.getvalue(), Content_Type="image/png", Set_Cookie=f"auth_token={TOKEN}")


def site(user):
    page = f"""<base href="/"><a href="{user}/closed">one</a> <a href="/moved">two</a>
    <a href="/page?api_key={TOKEN}">three</a> <a href="/away">four</a>
    <img src="{user}/1.png" alt="a red fox by {user}">
    <img src="//me:{PASSWORD}@a.example/2.png" alt="another red fox">
    <img src="/3.png?X-Amz-Signature={TOKEN}&w=3" alt="a third red fox"> <img src="/4.png?sig={TOKEN}" alt="a lost fox">
    <script>var feed = "{user.replace("/", chr(92) + "/")}\\/feed";</script>"""
    kept = {"X_Debug": f"api_key={TOKEN}", "Set_Cookie": f"session_token={TOKEN}", "Link": f"<{user}/by>; rel=license"}
    return {
        f"/?token={TOKEN}": answer(page.encode(), **kept),
        f"/page?api_key={TOKEN}": answer(b'<img src=5.png alt="a fifth red fox">', **kept),
        "/moved": answer(b"", "302 Found", Location=f"{user}/secret"),
        "/away": answer(b"", "302 Found", Location=f"/gone?password={TOKEN}"),
        "/5.png": picture("blue"),
        f"/3.png?X-Amz-Signature={TOKEN}&w=3": picture("red"),
    }


def contents(path):
    """The bytes of a file, unpacked, and the text of a table."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data += gzip.decompress(data)
    if path.suffix == ".parquet":
        data += str(pq.read_table(path).to_pylist()).encode()
    return data


def leaks(folder, secret):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if path.is_file() and secret.encode() in contents(path))  # fmt: skip


def test_a_crawl_writes_no_secret(tmp_path):
    with serving(site(f"http://me:{PASSWORD}@a.example")) as served:
        common = settings(
            connect_to={"*.example": f"127.0.0.1:{served.port}"},
            contact="mailto:a@b.example",
            web={"retries": 0, "host_concurrency": 8},
        )
        until = ["--until", "download", "--root", str(tmp_path / "root")]
        start = settings(seeds=f"http://a.example/?token={TOKEN}")
        code, printed = command("run", "website", *start, *common, *until, cwd=tmp_path)
        assert code == 0, printed
        code, refused = command("resume", "--root", str(tmp_path / "root"), cwd=tmp_path)
        assert code == 2 and "repeat the command" in refused
        code, again = command("run", "website", *start, *common, *until, cwd=tmp_path)
        assert code == 0 and "nothing to do" in again, again
        code, bad = command(
            "run", "website", *settings(seeds=f"http://me:{PASSWORD}@a.example/"), *common, *until, cwd=tmp_path
        )
        assert code == 2 and "user part" in bad
    assert "mailto:a@b.example" in served.heads[-1]
    (table,) = tmp_path.glob("root/artifacts/download/*/data/*.parquet")
    rows = {row["url"]: row["reason"] for row in pq.read_table(table).to_pylist()}
    assert rows == {
        "http://a.example/3.png?X-Amz-Signature=***&w=3": None,
        f"http://a.example/4.png?sig={TOKEN}": "http_error",  # to be tried again
        "http://a.example/5.png": None,
    }
    for text in (printed, refused, again, bad):
        assert PASSWORD not in text and TOKEN not in text
    assert leaks(tmp_path, PASSWORD) == []
    # What is left is what the site itself publishes, or what the next stage fetches.
    expected = (".warc.gz", f"data/{table.name}", "data/pairs-00000.parquet")
    assert [path for path in leaks(tmp_path, TOKEN) if not path.endswith(expected)] == []
    for path in tmp_path.glob("root/artifacts/extract/*/data/pairs-*.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert TOKEN not in str({name: value for name, value in row.items() if name != "url"})
    for path in tmp_path.glob("root/artifacts/crawl/*/data/*.warc.gz"):
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        assert all("/3.png?" in line or "/page?" in line for line in lines if TOKEN in line)  # links of the page


def test_a_list_writes_no_password(tmp_path):
    rows = [
        ("http://a.example/5.png", "a red fox", f"http://me:{PASSWORD}@a.example/page"),
        (f"http://me:{PASSWORD}@a.example/1.png", "another fox", ""),
        (f"//me:{PASSWORD}@a.example/1.png", f"a fox by http://me:{PASSWORD}@a.example/", ""),
        (f"http:me:{PASSWORD}@a.example/1.png", "a fox", ""),
        (f"http://a.example/3.png?X-Amz-Signature={TOKEN}&w=3", "a third fox", ""),
    ]
    (tmp_path / "list").mkdir()
    lines = [json.dumps({"url": url, "caption": text, "page_url": page}) for url, text, page in rows]
    (tmp_path / "list/x.jsonl").write_text("\n".join(lines))
    with serving(site("http://a.example")) as served:
        common = settings(url_list=str(tmp_path / "list/x.jsonl"), connect_to={"*.example": f"127.0.0.1:{served.port}"})
        code, printed = command("run", "url_list", *common, "--root", str(tmp_path / "root"), cwd=tmp_path)
    assert code == 0 and PASSWORD not in printed and TOKEN not in printed, printed
    assert "bad_url 3" in printed
    assert leaks(tmp_path / "root", PASSWORD) == []
    found = leaks(tmp_path / "root", TOKEN)
    assert len(found) == 1 and "/urls/" in found[0]  # the address to fetch


def test_a_crawl_without_a_page_is_no_success(tmp_path):
    with serving({}) as served:
        words = settings(seeds=f"http://127.0.0.1:{served.port}/")
        code, printed = command("run", "website", *words, "--until", "crawl", "--root", str(tmp_path), cwd=tmp_path)
    assert code == 1
    assert all(words in printed for words in ("refused_address 1", "allow_private", "connect_to")), printed


def test_an_intranet_that_is_named_is_crawled_and_downloaded(tmp_path):
    with serving({"/": answer(b'<img src=5.png alt="a fifth red fox">'), "/5.png": picture("blue")}) as served:
        words = settings(seeds=f"http://localhost:{served.port}/", allow_private=["127.0.0.0/8", "::1/128"])
        code, printed = command("run", "website", *words, "--until", "download", "--root", str(tmp_path), cwd=tmp_path)
    assert code == 0, printed
    assert "1 of 1 pairs kept" in printed
