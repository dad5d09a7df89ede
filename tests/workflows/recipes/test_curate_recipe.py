"""Images as img2dataset left them to shards ready for training: the recipe ``curate``."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import running
from PIL import Image

from infra.formats.shards import TarWriter, read_samples

WORDS = ("castle", "harbour", "bicycle", "orchard")


def image(seed: int, width: int = 160, height: int = 140) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def downloaded(tmp_path) -> Path:
    """Two shards with img2dataset's own columns: 40 good images, a copy, a small one, a bad caption, a failure."""
    good = [(image(n), f"an old {WORDS[n % 4]} by the river, view {n}", 160, 140) for n in range(40)]
    rows = [
        *good[:20],
        (good[0][0], "the same castle once more", 160, 140),
        (image(90, 100, 90), "a small bicycle in a yard", 100, 90),
        *good[20:],
        (image(91), "IMG_2041.jpg", 160, 140),
        (None, "a harbour that did not answer", None, None),
    ]
    folder = tmp_path / "img2dataset"
    folder.mkdir()
    for shard, part in enumerate((rows[:22], rows[22:])):
        records = []
        with (folder / f"{shard:05d}.tar").open("wb") as sink, TarWriter(sink) as out:
            for number, (data, caption, width, height) in enumerate(part):
                key = f"{shard:05d}{number:04d}"
                if data is not None:
                    out.add(f"{key}.jpg", data)
                    out.add(f"{key}.txt", caption.encode())
                records.append({
                    "url": f"https://img.example/{key}.jpg", "key": key, "caption": caption,
                    "status": "success" if data else "failed_to_download", "error_message": None if data else "timeout",
                    "width": width, "height": height, "original_width": width, "original_height": height,
                    "exif": "{}", "sha256": hashlib.sha256(data).hexdigest() if data else None,
                })  # fmt: skip
        pq.write_table(pa.Table.from_pylist(records), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def run(downloaded: Path, **sets: object) -> dict[str, dict]:
    """The manifests of a run from the command line, by stage."""
    made = running.run("curate", downloaded.parent / "root", images=downloaded, **sets)
    return {stage: running.manifest(folder) for stage, folder in made.items()}


@running.QUIET
def test_a_run_that_keeps_nothing_ends_and_says_so(ray_cluster, downloaded):
    manifests = run(downloaded, min_side=5000)
    assert manifests["filter"]["funnel"]["dropped"] == {"image_side": 43}
    for stage in ("dedup", "balance", "shard"):
        assert manifests[stage]["funnel"] == {"unit": "images", "entered": 0, "kept": 0, "dropped": {}}
    assert running.clipline(downloaded.parent / "root", "report").stdout


@running.QUIET
def test_from_img2datasets_folder_to_shards(ray_cluster, downloaded):
    manifests = run(downloaded, min_side=128, holdout_fraction=0.25, max_per_entry=5)
    assert manifests["filter"]["funnel"]["dropped"] == {"image_side": 1, "text_junk": 1}
    assert manifests["dedup"]["funnel"]["dropped"] == {"duplicate_bytes": 1}
    balanced = manifests["balance"]["funnel"]
    assert balanced["entered"] == 40
    assert balanced["kept"] + balanced["dropped"]["balanced_away"] == 40
    shards = manifests["shard"]
    assert shards["facts"]["train"] + shards["facts"]["holdout_captions"] == balanced["kept"]
    (folder,) = downloaded.parent.glob("root/artifacts/shard/*")
    with (folder / "data/train/00000.tar").open("rb") as source:
        samples = list(read_samples(source))
    assert len(samples) == shards["facts"]["train"]
    assert all(sample["jpg"] and b"by the river" in sample["txt"] for sample in samples)
    # img2dataset gives no uid; draws, shuffle and split go by it, so each pair must have its own
    uids = {json.loads(sample["json"])["uid"] for sample in samples}
    assert len(uids) == len(samples)
    assert all(re.fullmatch(r"[0-9a-f]{32}", uid) for uid in uids)
    assert shards["facts"]["holdout"] > 0
    check_traces(downloaded, folder / "data/train/00000.tar", min(uids))


def check_traces(downloaded: Path, tar: Path, uid: str) -> None:
    """``clipline trace`` tells the whole way of rows that ended here and there."""

    def trace(what: str) -> list[tuple[str, str, str]]:
        done = running.clipline(downloaded.parent / "root", "trace", what, "--json")
        (row,) = json.loads(done.stdout)["rows"]
        hits.extend(row["hits"])
        return [(hit["stage"], hit["outcome"], hit.get("reason", "")) for hit in row["hits"]]

    hits: list[dict] = []
    assert trace("https://img.example/000010021.jpg") == [("images", "dropped", "failed_to_download")]
    assert trace("https://img.example/000010020.jpg") == [("images", "kept", ""), ("filter", "dropped", "text_junk")]
    assert hits[-1]["details"]["failed"][0] == "text_junk"
    assert trace("https://img.example/000000020.jpg")[-1] == ("dedup", "dropped", "duplicate_bytes")
    assert hits[-1]["details"]["duplicate_of_url"] == "https://img.example/000000000.jpg"
    assert [stage for stage, _, _ in trace(uid)] == ["images", "filter", "dedup", "balance", "shard"]
    with tar.open("rb") as source:
        source.seek(hits[-1]["offset"])
        assert source.read(2) == b"\xff\xd8"  # where a JPEG begins
