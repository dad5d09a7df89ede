"""Verification of images against listed hashes, compared with hashlib, imagehash and img2dataset."""

import hashlib
import io
import json

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from img2dataset_shard import download  # beside this file
from loopback import answer, serving
from PIL import Image

from infra.errors import ConfigError, DataError
from infra.run.context import Context, ShardOutput
from infra.schema import pairs_schema
from pipelines.download import Config
from pipelines.download.shard import Work, work
from pipelines.download.verify import MISMATCH, Verify, hash_of
from pipelines.layout import Slice
from pipelines.tables import read_table
from pipelines.web import Web


def scene(seed: int, side: int = 300) -> Image.Image:
    """Detail at every scale, as photographs have it."""
    rng = np.random.default_rng(seed)
    octaves = [Image.fromarray(rng.integers(0, 256, (2**level, 2**level, 3), np.uint8)) for level in range(1, 7)]
    layers = [np.asarray(octave.resize((side, side), Image.Resampling.BICUBIC), np.float64) for octave in octaves]
    mixed = sum(layer / 2**level for level, layer in enumerate(layers)) / 2
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form="JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["md5", "sha256", "sha512"])
def test_digests(kind):
    body = encoded(scene(1))
    assert hash_of(body, kind) == getattr(hashlib, kind)(body).hexdigest()
    verify = Verify(column=kind, hash=kind)
    assert verify.agrees(hash_of(body, kind).upper(), hash_of(body, kind))
    assert not verify.agrees(hash_of(body + b"\0", kind), hash_of(body, kind))
    assert not verify.agrees(None, hash_of(body, kind))


def test_perceptual_hashes_survive_reencoding_and_resizing():
    verify = Verify(column="phash", hash="phash", mode="perceptual")
    for seed in range(8):
        image = scene(seed)
        listed = str(imagehash.phash(image))
        for again in (
            encoded(image, quality=60),
            encoded(image.resize((180, 180))),
            encoded(image, "WEBP", quality=70),
            encoded(image, "PNG"),
        ):
            assert verify.agrees(listed, hash_of(again, "phash"))
        assert not verify.agrees(listed, hash_of(encoded(scene(seed + 100)), "phash"))
    assert not verify.agrees("not hex", "0" * 16)
    assert verify.agrees("3f", "0" * 16)
    assert not verify.agrees("7f", "0" * 16)


def test_what_cannot_be_compared_is_refused():
    for wrong in ({"hash": "sha256", "mode": "perceptual"}, {"hash": "phash", "mode": "strict"}):
        with pytest.raises(ConfigError, match="perceptual"):
            Verify(column="hash", **wrong)
    assert Verify(column="hash", hash="phash", mode="warn").mode == "warn"


def test_the_column_is_found_under_the_name_it_has_in_the_list():
    rows = pa.table({"sha256_listed": ["a", None], "url": ["x", "y"]})
    assert Verify(column="sha256").listed(rows) == ["a", None]
    assert Verify(column="url").listed(rows) == ["x", "y"]
    assert Verify(column="sha256").mismatches(rows, ["a", None]) == [False, False]
    assert Verify(column="sha256").mismatches(rows, ["b", "c"]) == [True, True]
    with pytest.raises(DataError, match="no column 'md5'"):
        Verify(column="md5").listed(rows)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["md5", "sha256", "sha512"])
def test_strict_is_img2datasets(kind, img2dataset, tmp_path):
    """The same files listed with right, wrong and absent hashes: the same rows are refused."""
    bodies = [encoded(scene(0)), encoded(scene(1)), encoded(scene(2)), b"no image", b"no image"]
    right = [hash_of(body, kind) for body in bodies]
    listed = [right[0], right[0], None, right[3], "0"]
    urls = []
    for index, body in enumerate(bodies):
        (tmp_path / str(index)).write_bytes(body)
        urls.append((tmp_path / str(index)).as_uri())
    rows = pa.table({"url": urls, kind: pa.array(listed, pa.string())})
    theirs = download(img2dataset, rows, tmp_path / "out", compute_hash=kind, verify_hash_type=kind)
    ours = Verify(column=kind, hash=kind).mismatches(rows, right)
    assert [row["error_message"] == MISMATCH for row in theirs] == ours == [False, True, True, False, True]
    assert {row["status"] for row in theirs if row["error_message"] == MISMATCH} == {"failed_to_download"}
    assert theirs[0][kind] == right[0]
    assert json.loads((tmp_path / "out/00000_stats.json").read_text())["status_dict"][MISMATCH] == 3


def test_a_download_verifies(tmp_path):
    """A list with both kinds of hashes: one image unchanged, one re-encoded, one replaced, one gone."""
    before = [encoded(scene(seed), quality=95) for seed in range(4)]
    now = [before[0], encoded(scene(1), quality=70), encoded(scene(9), quality=95), None]
    routes = {f"/{n}.jpg": answer(body, Content_Type="image/jpeg") for n, body in enumerate(now) if body}
    context = Context(tmp_path / "pairs")
    table = pa.Table.from_pylist(
        [
            {"uid": f"{n:032x}", "url": f"http://a.example/{n}.jpg", "caption": str(n)}
            | {"sha256_listed": hash_of(body, "sha256"), "phash": hash_of(body, "phash")}
            for n, body in enumerate(before)
        ],
        pa.schema([*pairs_schema(), ("sha256_listed", pa.string()), ("phash", pa.string())]),
    )
    context.output.write_table("data/0.parquet", table)

    def reasons(name, **verify):
        web = Web(connect_to={"*.example": f"127.0.0.1:{site.port}"})
        config = Config(samples_per_shard=10, web=web, verify=Verify(**verify))
        output = ShardOutput(Context(tmp_path / name).store, "00000")
        (record,) = work(Work(config, context.store), [((0, (Slice("data/0.parquet", 0, 4),)), output)])
        rows = read_table(output.store, "data/00000.parquet")
        assert record.funnel.kept == rows["reason"].null_count
        return rows["reason"].to_pylist(), rows

    with serving(routes) as site:
        strict, rows = reasons("strict", column="sha256")
        assert strict == [None, "hash_mismatch", "hash_mismatch", "http_error"]
        assert rows["error_message"].to_pylist()[1] == MISMATCH
        assert reasons("perceptual", column="phash", hash="phash", mode="perceptual")[0] == [
            None, None, "hash_mismatch", "http_error",
        ]  # fmt: skip
        for column, kind, differ in (
            ("sha256", "sha256", [False, True, True, False]),
            ("phash", "phash", [False, False, True, False]),
        ):
            found, rows = reasons(f"warn-{kind}", column=column, hash=kind, mode="warn")
            assert found == [None, None, None, "http_error"]
            assert rows["hash_mismatch"].to_pylist() == differ
