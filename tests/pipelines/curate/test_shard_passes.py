"""Sharding in many parts: against a plain loop, for any number of workers, killed and resumed, and over a wire."""

import base64
import io
import json
import re
import socket
import threading
from collections import defaultdict
from contextlib import contextmanager
from hashlib import sha256
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
import s3fs
from PIL import Image

from infra.cluster import Limits
from infra.formats.shards import read_samples, shard_name, write_triple
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate import gallery
from pipelines.curate.shard import Config, figures, run, sources, work, write
from pipelines.tables import read_table

pytestmark = pytest.mark.long  # runs the stage again and again

SHARDS, PER_SHARD, COPIES = 6, 20, 3
MISSING = {"00003"}  # keys of rows whose image is not there


def picture(number: int, side: int = 4) -> bytes:
    """Another PNG for each number, of about ``3 * side**2`` bytes."""
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def rows_and_images(side: int = 4, **columns) -> tuple[list[dict], dict[str, bytes]]:
    """Rows of some shards, of which every third of the last ones shows an image that another shows, too."""
    rows, images = [], {}
    for place in range(SHARDS * PER_SHARD):
        key = f"{place:05d}"
        images[key] = picture(place if place % COPIES else place // 2, side)
        row = {
            "uid": f"{hash64(key):032x}",
            "key": key,
            "shard": place // PER_SHARD,
            "caption": f"a caption\nof {place}",
        }
        row |= {"page_url": f"http://host{place % 7}.example/<b>", "url": f"http://images.example/{place}.png"}
        row |= {"sha256": sha256(images[key]).hexdigest(), "own": place / 3}
        rows.append(row | {name: value(place) for name, value in columns.items()})
    return rows, images


def inputs_of(folder, rows, images) -> dict[str, Artifact]:
    """A download and a selection of all of it, as the stages before leave them."""
    download, selection = Context(f"{folder}/images"), Context(f"{folder}/selection")
    for shard in range(SHARDS):
        own = [row for row in rows if row["shard"] == shard]
        members = []
        for row in own:
            if row["key"] not in MISSING:
                members.append((f"{row['key']}.png", images[row["key"]]))
            members.append((f"{row['key']}.txt", row["caption"].encode()))
        table = pa.Table.from_pylist([{"key": row["key"], "status": "success", "error_message": None} for row in own])
        write_triple(download.output, shard, members, table)
        selection.output.write_table(f"data/kept-{shard_name(shard)}.parquet", pa.Table.from_pylist(own))
    return {
        "images": Artifact(download.store, download.finish()),
        "selection": Artifact(selection.store, selection.finish()),
    }


@pytest.fixture
def small_parts(monkeypatch):
    """Every lot, part, writer and piece in memory is small: what billions of rows would meet."""
    monkeypatch.setattr(sources, "_ROWS", 30)
    monkeypatch.setattr(work, "_REFERENCES", 17)
    monkeypatch.setattr(work, "_ROWS", 14)
    monkeypatch.setattr(write, "_BYTES", 1_000)


def plain_loop(rows, config):
    """The samples of both sides by sorting and grouping: rows that stand in training, and lists of those held out."""
    train, held_out = [], defaultdict(list)
    for row in sorted(rows, key=lambda row: hash64(f"{config.seed}/order/{row['uid']}")):
        together = row.get("cluster") or row["sha256"]
        if hash64(f"{config.seed}/split/{together}") < config.holdout_fraction * 2**64:
            held_out[row["sha256"]].append(row)
        else:
            train.append(row)
    return train, [held_out[image] for image in sorted(held_out, key=lambda x: hash64(f"{config.seed}/order/{x}"))]


def tars(artifact, side) -> list[list[dict]]:
    files = [
        file for file in artifact.manifest.files if file.path.startswith(f"data/{side}") and file.path[-3:] == "tar"
    ]
    files.sort(key=lambda file: int(re.findall(r"\d+", file.path)[-1]))
    found = [list(read_samples(io.BytesIO(artifact.read(file.path)))) for file in files]
    assert [len(samples) for samples in found] == [file.rows for file in files]
    return found


def check(artifact, rows, images, config):
    rows = [row for row in rows if row["key"] not in MISSING]
    train, held_out = plain_loop(rows, config)
    for side, samples in (("train", train), ("holdout", held_out)):
        found = tars(artifact, side)
        assert [len(shard) for shard in found[:-1]] == [config.samples_per_shard] * (len(found) - 1)
        flat = [sample for shard in found for sample in shard]
        known = [json.loads(sample["json"]) for sample in flat]
        assert known == (train if side == "train" else [{"pairs": group} for group in held_out])
        groups = [[row] for row in train] if side == "train" else samples
        assert [sample["png"] for sample in flat] == [images[group[0]["key"]] for group in groups]
        texts = ["\n".join(" ".join(row["caption"].split()) for row in group) for group in groups]
        assert [sample["txt"].decode() for sample in flat] == texts
    sizes = json.loads(artifact.read("data/train/sizes.json"))
    assert list(sizes.values()) == [len(shard) for shard in tars(artifact, "train")]
    assert int(artifact.read("data/holdout/test/nshards.txt")) == len(tars(artifact, "holdout"))
    facts = {"train": len(train), "holdout": len(held_out), "holdout_captions": len(rows) - len(train)}
    assert artifact.manifest.facts == facts
    return train, held_out


def sharded(folder, inputs, config) -> Artifact:
    context = Context(folder)
    return Artifact(context.store, run(config, inputs, context))


@pytest.mark.parametrize(("seed", "fraction"), [(0, 0.2), (1, 0.5), (2, 0.0), (3, 0.97)])
def test_in_many_parts_it_is_the_plain_loop(small_parts, tmp_path, seed, fraction):
    rows, images = rows_and_images()
    config = Config(samples_per_shard=7, holdout_fraction=fraction, seed=seed)
    artifact = sharded(tmp_path / "sharded", inputs_of(tmp_path, rows, images), config)
    check(artifact, rows, images, config)
    assert artifact.manifest.funnel.dropped == {"image_missing": len(MISSING)}
    (file,) = artifact.files("data/dropped", ".parquet")
    assert read_table(artifact.store, file.path)["key"].to_pylist() == sorted(MISSING)
    left = {path.split("/")[0] for path in artifact.store.paths()}
    assert left <= {"data", "figures", "ledger"}  # nothing of what was on its way
    named = {file.path for file in artifact.manifest.files}
    assert {path for path in artifact.store.paths() if not path.startswith("ledger/")} == named


def test_one_part_is_the_same_as_many(tmp_path, monkeypatch):
    rows, images = rows_and_images()
    inputs, config = inputs_of(tmp_path, rows, images), Config(samples_per_shard=7)
    whole = sharded(tmp_path / "whole", inputs, config)
    monkeypatch.setattr(sources, "_ROWS", 20)
    monkeypatch.setattr(work, "_REFERENCES", 9)
    monkeypatch.setattr(write, "_BYTES", 300)
    parts = sharded(tmp_path / "parts", inputs, config)
    assert bytes_of(parts) == bytes_of(whole)


def bytes_of(artifact) -> dict[str, bytes]:
    return {file.path: artifact.read(file.path) for file in artifact.manifest.files}


def test_a_cluster_of_near_copies_is_on_one_side(small_parts, tmp_path):
    """Sixty pictures, each planted twice as other bytes: never is one copy held out and the other learned."""
    rows, images = rows_and_images(cluster=lambda place: f"{place % 60:032x}" if place % 7 else None)
    config = Config(samples_per_shard=10, holdout_fraction=0.4)
    train, held_out = check(
        sharded(tmp_path / "sharded", inputs_of(tmp_path, rows, images), config), rows, images, config
    )
    learned = {row["cluster"] for row in train} - {None}
    tested = {row["cluster"] for group in held_out for row in group} - {None}
    assert learned and tested and not learned & tested
    without = [{name: value for name, value in row.items() if name != "cluster"} for row in rows]
    train, held_out = plain_loop(without, config)
    clusters = {row["uid"]: row["cluster"] for row in rows}
    learned = {clusters[row["uid"]] for row in train} - {None}
    tested = {clusters[row["uid"]] for group in held_out for row in group} - {None}
    assert learned & tested  # by bytes alone, some would be on both


def test_bytes_are_the_same_for_any_number_of_workers(small_parts, tmp_path, monkeypatch, ray_cluster):
    rows, images = rows_and_images()
    inputs = inputs_of(tmp_path, rows, images)
    here = bytes_of(sharded(tmp_path / "here", inputs, Config(samples_per_shard=20)))
    monkeypatch.setattr(work, "_SMALL", 0)
    for workers in (1, 2, 4):
        config = Config(samples_per_shard=20, limits=Limits(cpus=0.5, in_flight=workers))
        assert bytes_of(sharded(tmp_path / f"{workers}", inputs, config)) == here


def test_killed_anywhere_it_continues_to_the_same_bytes(small_parts, tmp_path, killed_until_done):
    rows, images = rows_and_images()
    inputs, config = inputs_of(tmp_path, rows, images), Config(samples_per_shard=7, holdout_fraction=0.3)
    undisturbed = bytes_of(sharded(tmp_path / "undisturbed", inputs, config))
    assert killed_until_done(lambda: bytes_of(sharded(tmp_path / "killed", inputs, config))) == undisturbed


def test_the_page_shows_the_first_samples(tmp_path):
    rows, images = rows_and_images()
    config = Config(samples_per_shard=50)
    artifact = sharded(tmp_path / "sharded", inputs_of(tmp_path, rows, images), config)
    page = artifact.read("figures/samples.html").decode()
    train, _ = plain_loop([row for row in rows if row["key"] not in MISSING], config)
    assert re.findall(r"<small>([0-9a-f]{32})</small>", page) == [row["uid"] for row in train]
    assert re.findall(r"<small>(host\d\.example)</small>", page) == [row["page_url"][7:20] for row in train]
    first = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])
    assert max(Image.open(io.BytesIO(first)).size) == 192
    assert "<b>" not in page


# --- over a wire ------------------------------------------------------------------------------------------------------


@contextmanager
def counting(address):
    """A connection to ``address`` that counts the bytes that come from there: its port, and a function giving them."""
    received, server = [0], socket.create_server(("127.0.0.1", 0))

    def pump(source, sink, counts):
        try:
            while data := source.recv(1 << 16):
                received[0] += len(data) if counts else 0
                sink.sendall(data)
        except OSError:
            pass  # the other end has closed
        finally:
            sink.close()

    def serve():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return  # closed below
            there = socket.create_connection(address)
            threading.Thread(target=pump, args=(client, there, False), daemon=True).start()
            threading.Thread(target=pump, args=(there, client, True), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1], lambda: received[0]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_images_in_a_bucket_are_read_twice(s3_server, s3_url, tmp_path, monkeypatch):
    """Once from the download, once from the runs; all else is little beside them, but for figures of so few images."""
    monkeypatch.setattr(sources, "_ROWS", 30)
    monkeypatch.setattr(work, "_ROWS", 40)
    monkeypatch.setattr(write, "_BYTES", 1 << 20)
    monkeypatch.setattr(figures, "_COUNT", 5)
    monkeypatch.setattr(gallery, "COUNT", 5)
    rows, images = rows_and_images(side=130)
    inputs, config = inputs_of(s3_url, rows, images), Config(samples_per_shard=5, holdout_fraction=0.2)
    there = urlsplit(s3_server)
    with counting((there.hostname, there.port)) as (port, received):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        inputs = {name: Artifact(artifact.store.url, artifact.manifest) for name, artifact in inputs.items()}
        artifact = sharded(f"{s3_url}/sharded", inputs, config)
        read = received()
        check(artifact, rows, images, config)
    s3fs.S3FileSystem.clear_instance_cache()
    of_images = sum(map(len, images.values()))
    assert of_images > 6_000_000
    assert 1.9 * of_images < read < 2.2 * of_images
