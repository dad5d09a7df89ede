"""The same rows through both engines, against one server."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import answer, serving
from PIL import Image

from infra.errors import ConfigError
from infra.formats.shards import read_samples
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from infra.schema import Drop
from infra.store import LocalStore
from pipelines.download import Config
from pipelines.download.img2dataset_engine import reason_of, refusal
from pipelines.download.shard import Work, work
from pipelines.download.verify import Verify, hash_of
from pipelines.layout import chunk_rows
from pipelines.tables import read_slices
from pipelines.web import Web

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # imghdr


def picture(seed: int, size: tuple[int, int], form="JPEG") -> bytes:
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    image.save(out, form, **({"quality": 92} if form == "JPEG" else {}))
    return out.getvalue()


PICTURES = {
    "/photo.jpg": picture(1, (640, 480)),
    "/tall.jpg": picture(2, (300, 700)),
    "/small.jpg": picture(3, (90, 60)),
    "/drawing.png": picture(4, (500, 400), "PNG"),
    "/web.webp": picture(5, (400, 400), "WEBP"),
}
ROUTES = {path: answer(body, Content_Type="image/jpeg") for path, body in PICTURES.items()} | {
    "/wide.jpg": answer(picture(6, (900, 30)), Content_Type="image/jpeg"),
    "/noai.jpg": answer(picture(7, (90, 90)), Content_Type="image/jpeg", X_Robots_Tag="noai"),
    "/page.jpg": answer(b"<html>", Content_Type="image/jpeg"),
    "/robots.txt": answer(b"", "404 Not Found"),
}
PATHS = [*PICTURES, "/missing.jpg", "/wide.jpg", "/noai.jpg", "/page.jpg"]


@pytest.fixture(scope="module")
def site():
    with serving(ROUTES) as server:
        yield server


def config(**changes) -> Config:
    web = Web(allow_private=("127.0.0.0/8",), retries=0, host_concurrency=8)
    return Config(**{"image_size": 128, "samples_per_shard": 20, "max_aspect_ratio": 10, "web": web, **changes})


def through(engine: str, pairs: Artifact, folder, shard=3, **changes):
    """Table and samples by key of the shard that an engine makes of ``pairs``."""
    output = ShardOutput(LocalStore(folder), f"{shard:05d}")
    (slices,) = chunk_rows(pairs.files("data/"), 20)
    (record,) = work(Work(config(engine=engine, **changes), pairs.store), [((shard, slices), output)])
    with (folder / f"data/{shard:05d}.tar").open("rb") as tar:
        samples = {sample["__key__"]: sample for sample in read_samples(tar)}
    return pq.read_table(folder / f"data/{shard:05d}.parquet"), samples, record


def test_both_engines_make_the_same_shard(site, pairs_artifact, tmp_path):
    here = f"http://127.0.0.1:{site.port}"
    urls = [here + path for path in PATHS] + ["file:///etc/passwd", "http://10.1.2.3/a.jpg"]
    pairs = pairs_artifact([(url, f"caption ä {index}") for index, url in enumerate(urls)])
    ours, our_samples, our_record = through("clipline", pairs, tmp_path / "ours")
    theirs, their_samples, their_record = through("img2dataset", pairs, tmp_path / "theirs")

    assert ours.schema == theirs.schema, set(ours.schema) ^ set(theirs.schema)
    same = ["uid", "url", "caption", "key", "status", "width", "height", "original_width", "original_height", "exif"]
    assert ours.select(same).to_pylist() == theirs.select(same).to_pylist()
    both = range(len(PATHS))
    messages = [table["error_message"].to_pylist() for table in (ours, theirs)]
    assert [messages[0][row] for row in both] == [messages[1][row] for row in both]
    assert messages[1][len(PATHS)].startswith("bad_url")
    assert theirs["reason"].to_pylist()[5:] == [
        *("http_error", "aspect_ratio_too_large", "opt_out", "decode_failed", "bad_url", "refused_address"),
    ]
    assert their_record.funnel.kept == our_record.funnel.kept == len(PICTURES)
    good = [row for row in both if messages[0][row] is None]
    assert [ours["sha256"].to_pylist()[row] for row in good] == [theirs["sha256"].to_pylist()[row] for row in good]

    assert list(our_samples) == list(their_samples)
    for key, sample in our_samples.items():
        other = their_samples[key]
        assert sample.keys() == other.keys()
        assert sample["txt"] == other["txt"]
        known, theirs_know = json.loads(sample["json"]), json.loads(other["json"])
        assert {name: known[name] for name in theirs_know} == theirs_know
        assert psnr(sample["jpg"], other["jpg"]) > 38


def psnr(one: bytes, other: bytes) -> float:
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64) for data in (one, other)]
    return 10 * np.log10(255**2 / max(np.mean((pixels[0] - pixels[1]) ** 2), 1e-9))


@pytest.mark.long
def test_the_order_is_that_of_the_rows_not_of_the_answers(site, pairs_artifact, tmp_path):
    pairs = pairs_artifact([(f"http://127.0.0.1:{site.port}{path}", path) for path in PATHS])
    first = through("img2dataset", pairs, tmp_path / "a")
    again = through("img2dataset", pairs, tmp_path / "b")
    assert first[0] == again[0]
    assert {file.path: file.sha256 for file in first[2].files if file.path.endswith((".parquet", ".json"))} == {
        file.path: file.sha256 for file in again[2].files if file.path.endswith((".parquet", ".json"))
    }
    assert first[1] == again[1]


def test_its_verification(site, pairs_artifact, tmp_path):
    pairs = pairs_artifact([(f"http://127.0.0.1:{site.port}{path}", path) for path in PICTURES])
    (files,) = chunk_rows(pairs.files("data/"), 20)
    rows = read_slices(pairs.store, files)
    right = [hash_of(body, "md5") for body in PICTURES.values()]
    rows = rows.append_column("md5_listed", pa.array([right[0], "0" * 32, *right[2:]]))
    listed = pairs_of(rows, tmp_path / "listed")
    options = {"compute_hash": "md5", "verify": Verify(column="md5", hash="md5")}
    ours, _, _ = through("clipline", listed, tmp_path / "ours", **options)
    theirs, _, _ = through("img2dataset", listed, tmp_path / "theirs", **options)
    assert ours["error_message"].to_pylist() == theirs["error_message"].to_pylist()
    assert theirs["reason"].to_pylist() == [None, Drop.HASH_MISMATCH, None, None, None]
    assert ours.schema == theirs.schema, set(ours.schema) ^ set(theirs.schema)
    assert theirs["md5"].to_pylist()[0] == right[0]
    with pytest.raises(ConfigError, match="cannot verify this hash"):
        through("img2dataset", listed, tmp_path / "no", verify=Verify(column="md5", hash="md5", mode="warn"))


def pairs_of(rows: pa.Table, folder) -> Artifact:
    context = Context(folder)
    context.output.write_table("data/00000.parquet", rows)
    return Artifact(context.store, context.finish())


def test_images_without_captions(site, pairs_artifact, tmp_path):
    """As img2dataset without caption_col: no column, no .txt."""
    pairs = pairs_artifact([(f"http://127.0.0.1:{site.port}{path}", path) for path in PICTURES])
    (files,) = chunk_rows(pairs.files("data/"), 20)
    bare = pairs_of(read_slices(pairs.store, files).drop_columns("caption"), tmp_path / "bare")
    for engine in ("clipline", "img2dataset"):
        table, samples, _ = through(engine, bare, tmp_path / engine)
        assert "caption" not in table.column_names
        assert len(samples) == len(PICTURES)
        assert all(sorted(sample) == ["__key__", "jpg", "json"] for sample in samples.values())
        assert "caption" not in json.loads(next(iter(samples.values()))["json"])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.org/a.jpg", None),
        ("http://93.184.216.34/a.jpg", None),
        ("http://192.168.5.1/a.jpg", None),  # allowed below
        ("file:///etc/passwd", Drop.BAD_URL),
        ("data:image/png;base64,AAAA", Drop.BAD_URL),
        ("ftp://example.org/a.jpg", Drop.BAD_URL),
        ("", Drop.BAD_URL),
        ("http://0x7f.1/a.jpg", Drop.REFUSED),
        ("http://[::ffff:10.0.0.1]/a.jpg", Drop.REFUSED),
        ("http://169.254.169.254/latest/meta-data", Drop.REFUSED),
        ("http://localhost/a.jpg", Drop.REFUSED),
    ],
)
def test_what_is_never_handed_over(url, reason):
    found = refusal(url, Web(allow_private=("192.168.0.0/16",)))
    assert (found and found[0]) == reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("HTTP Error 404: Not Found", Drop.HTTP_ERROR),
        (
            "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.",
            Drop.REFUSED,
        ),
        ("<urlopen error timed out>", Drop.TIMEOUT),
        ("The read operation timed out", Drop.TIMEOUT),
        ("<urlopen error [Errno -2] Name or service not known>", Drop.CONNECTION),
        ("Remote end closed connection without response", Drop.CONNECTION),
        ("URL can't contain control characters. '/a b' (found at least ' ')", Drop.BAD_URL),
        ("hash mismatch", Drop.HASH_MISMATCH),
    ],
)
def test_its_messages_have_reasons(message, reason):
    assert reason_of("failed_to_download", message) is reason


def test_it_connects_where_names_lead():
    web = Web(connect_to={"*.example": "127.0.0.1:80"})
    with pytest.raises(ConfigError, match="connect_to") as caught:
        Config(engine="img2dataset", web=web)
    assert "engine=clipline" in str(caught.value)


def test_its_users_read_ours(site, pairs_artifact, tmp_path, img2dataset):
    """pandas, the statistics, and what its incremental mode and its logger read of a folder."""
    from img2dataset.logger import CappedCounter, SpeedLogger

    pairs = pairs_artifact([(f"http://127.0.0.1:{site.port}{path}", path) for path in PATHS])
    _, samples, _ = through("clipline", pairs, tmp_path / "ours", shard=0)
    folder = tmp_path / "ours/data"
    frame = pd.read_parquet(folder / "00000.parquet")
    assert frame[frame.status == "success"].key.tolist() == list(samples)
    assert frame.groupby("status").size().to_dict() == {"failed_to_download": 2, "failed_to_resize": 2, "success": 5}
    assert {name: str(frame[name].dtype) for name in ("width", "original_height")} == {
        "width": "float64", "original_height": "float64",
    }  # fmt: skip
    done = {int(path.name.split("_")[0]) for path in folder.glob("*.json")}
    assert done == {0}
    assert not [name for name in os.listdir(folder) if not name.startswith("00000")]
    theirs_folder = tmp_path / "theirs"
    through("img2dataset", pairs, theirs_folder, shard=0)
    stats = json.loads((folder / "00000_stats.json").read_text())
    theirs = json.loads((theirs_folder / "data/00000_stats.json").read_text())
    assert stats.keys() == theirs.keys()
    assert stats["status_dict"] == theirs["status_dict"]
    fields = ("count", "successes", "failed_to_download", "failed_to_resize", "start_time", "end_time")
    SpeedLogger("total", enable_wandb=False)(**dict(zip(
        ("count", "success", "failed_to_download", "failed_to_resize", "start_time", "end_time"),
        (stats[name] for name in fields), strict=True,
    )))  # fmt: skip
    assert CappedCounter.load(stats["status_dict"]).most_common(1) == [("success", 5)]


CONTINUE = """
if __name__ == "__main__":
    import sys, warnings
    warnings.simplefilter("ignore")
    from img2dataset import download
    download(
        url_list=sys.argv[1], input_format="parquet", url_col="url", caption_col="caption", output_format="webdataset",
        output_folder=sys.argv[2], image_size=128, resize_mode="keep_ratio", resize_only_if_bigger=True,
        number_sample_per_shard=4, processes_count=1, thread_count=4, timeout=5, max_aspect_ratio=10,
        save_additional_columns=["uid", "page_url", "source", "language", "license"],
    )
"""


@pytest.mark.slow  # three interpreters that import img2dataset
def test_its_own_command_continues_our_folder(site, pairs_artifact, tmp_path):
    """Incremental mode takes our shards as done, and does just the one that is missing."""
    pairs = pairs_artifact([(f"http://127.0.0.1:{site.port}{path}", path) for path in PATHS])
    ours = config(samples_per_shard=4)
    for number, slices in enumerate(chunk_rows(pairs.files("data/"), 4)):
        list(work(Work(ours, pairs.store), [((number, slices), ShardOutput(LocalStore(tmp_path), f"{number:05d}"))]))
    folder = tmp_path / "data"
    done = {path.name: path.read_bytes() for path in folder.glob("0000[02]*")}
    missing = pq.read_table(folder / "00001.parquet")
    for path in folder.glob("00001*"):
        path.unlink()
    pq.write_table(read_slices(pairs.store, next(chunk_rows(pairs.files("data/"), 100))), tmp_path / "list.parquet")
    (tmp_path / "continue.py").write_text(CONTINUE)
    command = [sys.executable, str(tmp_path / "continue.py"), str(tmp_path / "list.parquet"), str(folder)]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    subprocess.run(command, check=True, capture_output=True, timeout=200, env=environment)
    assert {path.name: path.read_bytes() for path in folder.glob("0000[02]*")} == done
    found = pq.read_table(folder / "00001.parquet").sort_by("key")
    same = ["key", "url", "caption", "uid", "status", "error_message", "width", "original_height"]
    assert found.select(same).to_pylist() == missing.select(same).to_pylist()
