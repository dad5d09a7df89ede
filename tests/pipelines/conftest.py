"""Artifacts as the stages before would have left them, made in memory."""

from __future__ import annotations

import io
import os
import random
import warnings
from hashlib import sha256

import pyarrow as pa
import pytest
from PIL import Image

from infra.formats.shards import sample_key, write_triple
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from infra.schema import images_schema, pairs_schema
from pipelines.curate.dedup import duplicates, leaders
from pipelines.curate.dedup.keys import MOST


def pair(index: int, url: str, caption: str) -> dict:
    uid = sha256(f"{url} {caption} {index}".encode()).hexdigest()[:32]
    return {"uid": uid, "url": url, "caption": caption, "page_url": "http://a.example/", "source": "alt"}


@pytest.fixture
def pairs_artifact(tmp_path):
    """``make(rows)``: an extract artifact, two rows to a file, of (url, caption)."""

    def make(rows) -> Artifact:
        context = Context(tmp_path / "pairs")
        rows = [pair(index, url, caption) for index, (url, caption) in enumerate(rows)]
        for number, start in enumerate(range(0, len(rows), 2)):
            table = pa.Table.from_pylist(rows[start : start + 2], pairs_schema())
            context.output.write_table(f"data/{number:05d}.parquet", table)
        return Artifact(context.store, context.finish())

    return make


@pytest.fixture
def images_artifact(tmp_path):
    """``make(rows, per_shard, extra)``: a download artifact of (caption, image) or (caption, image, changes) rows.

    ``extra``: fields of the list's own columns, whose values are among the changes.
    ``image``: encoded bytes, a Pillow image (stored as PNG), or None for a row that failed.
    """

    def make(rows, per_shard=10, extra=()) -> Artifact:
        context = Context(tmp_path / "images")
        schema = images_schema(pa.schema([*pairs_schema(), *extra])).append(pa.field("reason", pa.string()))
        for shard, start in enumerate(range(0, len(rows), per_shard)):
            table, members = [], []
            for index, (caption, image, *changes) in enumerate(rows[start : start + per_shard]):
                row = pair(start + index, f"http://a.example/{start + index}", caption)
                row |= {"key": sample_key(shard, index, per_shard), "status": "success", "exif": "{}"}
                if image is None:
                    row |= {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
                else:
                    data = image if isinstance(image, bytes) else png(image)
                    size = Image.open(io.BytesIO(data)).size
                    row |= dict(zip(("width", "height"), size, strict=True))
                    row |= dict(zip(("original_width", "original_height"), size, strict=True))
                    row["sha256"] = sha256(data).hexdigest()
                    form = Image.open(io.BytesIO(data)).format.lower().replace("jpeg", "jpg")
                    members += [(f"{row['key']}.{form}", data), (f"{row['key']}.txt", caption.encode())]
                table.append(row | (changes[0] if changes else {}))
            write_triple(context.output, shard, members, pa.Table.from_pylist(table, schema))
        return Artifact(context.store, context.finish())

    return make


@pytest.fixture
def finished(tmp_path):
    """``finished(run, config, inputs)``: the artifact a stage leaves, as the runner would commit it."""
    count = iter(range(100))

    def finish(run, config, inputs, folder=None, **options) -> Artifact:
        context = Context(folder or tmp_path / f"stage{next(count)}", **options)
        return Artifact(context.store, run(config, inputs, context))

    return finish


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


@pytest.fixture(scope="session")
def img2dataset():
    """The package, without the request and the warnings that importing it causes."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import img2dataset.downloader
        import img2dataset.resizer
    return img2dataset


@pytest.fixture
def small_dedup(monkeypatch):
    """Every part and home of dedup is small, and no round of leaders decides all: what billions of rows would meet."""
    monkeypatch.setattr(duplicates, "_ROWS", 20)
    monkeypatch.setattr(duplicates, "_KEYS", 20 * MOST)
    monkeypatch.setattr(duplicates, "_ENTRIES", 800)
    monkeypatch.setattr(leaders, "FEW", 25)


class Killed(Exception):
    pass


@pytest.fixture
def killed_until_done(monkeypatch):
    """``run_killed(run)``: the result of ``run()``, ended at a commit and begun anew until it comes through."""

    def run_killed(run):
        commit, rng, left = ShardOutput.commit, random.Random(5), [0]

        def deadly(self, *arguments):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return commit(self, *arguments)

        monkeypatch.setattr(ShardOutput, "commit", deadly)
        kills = 0
        while True:
            left[0] = rng.randint(1, 9)
            try:
                result = run()
                break
            except Killed:
                kills += 1
        assert kills > 3
        return result

    return run_killed
