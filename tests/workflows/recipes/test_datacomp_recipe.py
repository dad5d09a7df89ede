"""The recipe ``datacomp``: metadata in DataComp's form, chosen before the download, and by their vectors after it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import answer, serving
from running import QUIET, manifest, run
from small_clip import MODEL, encoded, scene

from infra.formats.shards import TarWriter

PAIRS = 60
DIM = 16


@pytest.fixture
def site():
    """A server of scenes by number: its port, and what was asked for, host and path."""
    numbers = [*range(PAIRS), *range(1000, 1000 + PAIRS)]
    with serving({f"/{number}.jpg": answer(image(number)) for number in numbers}) as served:
        yield served.port, served.asked


def image(number: int) -> bytes:
    return encoded(scene(number, 64)[1])


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def metadata(folder):
    """60 pairs in two files: every fifth in German, every seventh small; every tenth image has changed since."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(PAIRS):
        small, changed = number % 7 == 0, number % 10 == 3
        rows.append(
            {
                "uid": uid(number),
                "url": f"http://img.example/{number}.jpg",
                "text": "Ein schöner roter Kreis auf grauem Grund" if number % 5 == 0 else scene(number, 64)[0],
                "original_width": 100 if small else 640,
                "original_height": 480,
                "clip_b32_similarity_score": float(rng.random()),
                "clip_l14_similarity_score": number / 100,
                "face_bboxes": [[0.1, 0.1, 0.2, 0.2]] if number % 2 else [],
                "sha256": hashlib.sha256(image(number + 1000 if changed else number)).hexdigest(),
            }
        )
    vectors = {f"{model}_{kind}": unit(rng, PAIRS) for model in ("b32", "l14") for kind in ("img", "txt")}
    for part in range(2):
        half = slice(part * PAIRS // 2, (part + 1) * PAIRS // 2)
        pq.write_table(pa.Table.from_pylist(rows[half]), folder / f"{part:08x}.parquet")
        np.savez(folder / f"{part:08x}.npz", **{name: array[half] for name, array in vectors.items()})
    return folder, rows, vectors


def unit(rng, rows):
    array = rng.normal(size=(rows, DIM))
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float16)


def basic(row, number) -> bool:
    return number % 5 != 0 and row["original_width"] >= 200


def captions_set(folder):
    """A retrieval set of ten scenes."""
    (folder / "scenes/test").mkdir(parents=True)
    (folder / "scenes/dataset_type.txt").write_text("retrieval\n")
    (folder / "scenes/test/nshards.txt").write_text("1\n")
    with (folder / "scenes/test/0.tar").open("wb") as sink, TarWriter(sink) as tar:
        for number in range(500, 510):
            tar.add(f"{number}.jpg", image(number))
            tar.add(f"{number}.txt", scene(number, 64)[0].encode())
    return folder


@QUIET
def test_the_whole_track_at_toy_size(ray_cluster, site, tmp_path):
    port, asked = site
    folder, rows, vectors = metadata(tmp_path / "metadata")
    folders = run(
        "datacomp", tmp_path / "root", metadata=folder, share=0.7, neg_clip_loss=0.5, samples=64, batch_size=8,
        model=json.dumps(MODEL), tests=captions_set(tmp_path / "tests"), captions="scenes",
        connect_to=json.dumps({"*.example": f"127.0.0.1:{port}"}), web='{"host_concurrency": 16}',
    )  # fmt: skip

    # The intersection of the basic filter and the best 70% of all, and nothing else, was asked of the server.
    best = set(range(PAIRS - round(0.7 * PAIRS), PAIRS))
    chosen = {number for number, row in enumerate(rows) if number in best and basic(row, number)}
    images_asked = [path for path in asked if not path.endswith("/robots.txt")]
    assert sorted(images_asked) == sorted(f"img.example/{number}.jpg" for number in chosen)
    assert manifest(folders["filter"])["funnel"]["unit"] == "pairs"
    assert manifest(folders["filter"])["facts"]["failed"]["score_clip_l14_similarity_score"] == PAIRS - len(best)

    # Of what came as it was listed, the better half by negCLIPLoss; the published vectors of all pairs are one batch.
    there = sorted(number for number in chosen if number % 10 != 3)
    assert manifest(folders["download"])["funnel"]["dropped"] == {"hash_mismatch": len(chosen) - len(there)}
    images, texts = (vectors[f"l14_{kind}"].astype(np.float64) for kind in ("img", "txt"))
    table = images @ texts.T
    scores = np.diag(table) - 0.005 * sum(np.log(np.exp(side / 0.01).sum(axis=1)) for side in (table, table.T))
    wanted = {uid(number) for number in sorted(there, key=scores.__getitem__)[len(there) // 2 :]}
    kept = pq.read_table(folders["keep"] / "data/kept-00000.parquet")
    assert set(kept["uid"].to_pylist()) == wanted
    assert {"face_bboxes", "clip_b32_similarity_score", "neg_clip_loss"} <= set(kept.column_names)
    assert set(kept["original_width"].to_pylist()) == {64}  # as served; the metadata's own is beside it
    assert set(kept["original_width_listed"].to_pylist()) == {640}

    assert manifest(folders["train"])["funnel"]["kept"] == len(wanted)
    assert "image_retrieval_recall_at_5" in manifest(folders["retrieval_scenes"])["metrics"]
