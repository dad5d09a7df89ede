"""Vectors against open_clip run plainly, whatever the images are like, and the same bytes however they were made."""

from __future__ import annotations

import io

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from small_clip import adopted, encoded, scene, write_model

from infra.cluster import Limits
from infra.errors import ConfigError, DataError, UsageError
from infra.formats.vectors import Vectors, read_vectors, unit, vector_shards, write_vectors
from infra.run.context import Context
from infra.store import open_store
from pipelines import adopt
from pipelines.curate import embed
from pipelines.curate import filter as filtering
from pipelines.curate.embed.masking import Masker
from pipelines.curate.filter.rules import TextWords
from pipelines.tables import read_table

BASE = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture
def model(folder, tmp_path):
    return adopted(folder, adopt.Model(), tmp_path / "model")


def rows():
    """Pictures as the web has them, and three that cannot be read."""
    found = [[caption, encoded(image)] for caption, image in map(scene, range(BASE))]
    found[3][1] = encoded(scene(3)[1].convert("L"))
    found[4][1] = encoded(scene(4)[1].convert("CMYK"))
    found[5][1] = scene(5)[1].convert("P")
    found[6][1] = scene(6)[1].convert("RGBA")
    found[7][1] = encoded(scene(7)[1].resize((300, 40)))
    found[8][1] = encoded(scene(8)[1], "WEBP")
    found[9][0] = found[10][0]  # one caption twice
    found[11][1] = found[11][1][:-200]  # cut off
    found[12][1] = None  # not downloaded
    found[13][0] = ""
    return found


def plainly(folder, images, texts):
    """open_clip's own loop."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.open(io.BytesIO(data)).convert("RGB")) for data in images])
        return (
            model.eval().encode_image(pixels, normalize=True).numpy(),
            model.encode_text(tokenizer(texts), normalize=True).numpy(),
        )


def test_vectors_are_open_clips(ray_cluster, images_artifact, finished, folder, model):
    given = rows()
    images = images_artifact(given, per_shard=9)
    made = finished(embed.run, embed.Config(), {"images": images, "model": model})
    assert vector_shards(made) == ["00000", "00001", "00002"]
    funnel = made.manifest.funnel
    assert (funnel.entered, funnel.kept, funnel.dropped) == (BASE - 1, BASE - 2, {"decode_failed": 1})
    assert made.manifest.facts["captions"] == BASE - 3
    assert read_table(made.store, "data/dropped-00001.parquet")["reason"].to_pylist() == ["decode_failed"]
    shards = [read_vectors(made.store, shard) for shard in vector_shards(made)]
    kept = [row for place, row in enumerate(given) if place not in (11, 12)]
    files = [row[1] if isinstance(row[1], bytes) else encoded(row[1], "PNG") for row in kept]
    images, texts = plainly(folder, files, [row[0] for row in kept if row[0]])
    # float16 has 11 bits.
    np.testing.assert_allclose(np.concatenate([one.images for one in shards]), images, atol=2.0**-11)
    np.testing.assert_allclose(np.concatenate([one.texts for one in shards]), texts, atol=2.0**-11)
    cosines = (np.delete(images, [row[0] for row in kept].index(""), 0) * texts).sum(1)
    np.testing.assert_allclose(np.concatenate([one.similarities for one in shards]), cosines, atol=2e-4)


def files(artifact):
    return {file.path: file.sha256 for file in artifact.manifest.files}


@pytest.mark.parametrize("limits", [{"in_flight": 1}, {"in_flight": 2}, {"cpus": 2}])
def test_the_bytes_are_the_same_however_they_were_made(ray_cluster, images_artifact, finished, model, limits, tmp_path):
    inputs = {"images": images_artifact(rows(), per_shard=5), "model": model}
    whole = finished(embed.run, embed.Config(batch_size=4), inputs, folder=tmp_path / "whole")
    again = Context(tmp_path / "again")
    finished(embed.run, embed.Config(batch_size=4, limits=Limits(**limits)), inputs, folder=tmp_path / "again")
    # Killed after all shards but two.
    for shard in ("00001", "00003"):
        again.ledger.forget(shard)
    left = finished(embed.run, embed.Config(batch_size=4, limits=Limits(**limits)), inputs, folder=tmp_path / "again")
    assert files(left) == files(whole)


def test_several_captions_and_none(ray_cluster, images_artifact, finished, folder, model):
    captions = [["one", "two", ""], None, [], ["three", None, "one"]]
    field = pa.field("alts", pa.list_(pa.string()))
    given = [(text, image, {"alts": alts}) for (text, image), alts in zip(map(scene, range(4)), captions, strict=True)]
    images = images_artifact(given, extra=[field])
    selection = finished(filtering.run, filtering.Config(rules=(TextWords(min=1),)), {"images": images})
    inputs = {"images": images, "selection": selection, "model": model}
    vectors = read_vectors(finished(embed.run, embed.Config(captions="alts"), inputs).store, "00000")
    assert vectors.row_of.tolist() == [0, 0, 3, 3]
    _, texts = plainly(folder, [encoded(scene(0)[1])], ["one", "two", "three", "one"])
    np.testing.assert_allclose(vectors.texts, texts, atol=2.0**-11)
    part = vectors.take(np.array([3, 1]))
    assert part.uids == [vectors.uids[3], vectors.uids[1]]
    assert part.row_of.tolist() == [0, 0]
    assert (part.texts == vectors.texts[2:]).all()
    none = read_vectors(finished(embed.run, embed.Config(captions="absent"), inputs).store, "00000")
    assert (none.images == vectors.images).all()
    assert len(none.texts) == 0


def test_a_model_must_be_given_once(images_artifact):
    with pytest.raises(UsageError, match="no model is given"):
        embed.Config().check_inputs({"images"})
    with pytest.raises(UsageError, match="named twice"):
        embed.Config(model="ViT-B-32", pretrained="openai").check_inputs({"images", "model"})


def test_the_form_is_datacomps(tmp_path):
    """What numpy writes is read, and numpy reads what we write."""
    random = np.random.default_rng(0)
    vectors = {name: random.normal(size=(5, 16)).astype(np.float16) for name in ("b32_img", "b32_txt")}
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data/0a.npz", **vectors, l14_img=vectors["b32_txt"], l14_txt=vectors["b32_img"])
    pa.parquet.write_table(pa.table({"uid": list("abcde"), "text": ["t"] * 5}), tmp_path / "data/0a.parquet")
    read = read_vectors(open_store(tmp_path), "0a", "b32")
    np.testing.assert_allclose(read.images, unit(vectors["b32_img"]), atol=1e-6)
    assert (read_vectors(open_store(tmp_path), "0a", "l14").images == read.texts).all()
    with pytest.raises(DataError, match="vectors of 2 models"):
        read_vectors(open_store(tmp_path), "0a")
    with pytest.raises(DataError, match="has no h14_img"):
        read_vectors(open_store(tmp_path), "0a", "h14")
    context = Context(tmp_path / "ours")
    counts = pa.table({"uid": list("abcde"), "captions": pa.array([1] * 5, pa.int32())})
    write_vectors(context.output, "00000", counts, read.images, read.texts, "b32")
    with np.load(tmp_path / "ours/data/00000.npz") as file:
        assert sorted(file) == ["b32_img", "b32_txt"]
        assert file["b32_img"].dtype == np.float16
        np.testing.assert_allclose(file["b32_img"], read.images, atol=2.0**-11)


@pytest.mark.parametrize("shape", [(2, 4), (3,), (), (3, 4, 1)])
def test_what_does_not_fit_is_an_error(tmp_path, shape):
    (tmp_path / "data").mkdir()
    pa.parquet.write_table(pa.table({"uid": list("abc")}), tmp_path / "data/0.parquet")
    np.savez(tmp_path / "data/0.npz", b32_img=np.ones(shape), b32_txt=np.ones(shape))
    with pytest.raises(DataError, match="does not fit the table beside it"):
        read_vectors(open_store(tmp_path), "0")


def test_what_has_no_direction_is_zero():
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e-7, 0]], np.float32)
    assert unit(rows).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0], [0, 0], [0, 0], [1, 0]]


@pytest.mark.long
def test_vectors_take_rows_with_their_captions():
    vectors = Vectors(["a", "b", "c"], np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32), np.array([0, 2, 2]))
    assert vectors.take(np.array([2, 2, 1])).row_of.tolist() == [0, 0, 1, 1]
    assert vectors.take(np.array([], np.int64)).images.shape == (0, 3)


@pytest.mark.long
def test_written_words_are_painted_over():
    pytest.importorskip("rapidocr")
    plain = Image.new("RGB", (320, 240), (40, 120, 60))
    ImageDraw.Draw(plain).ellipse((110, 120, 210, 220), fill=(200, 40, 40))
    written = plain.copy()
    ImageDraw.Draw(written).text((30, 20), "GRAND OPENING", (255, 255, 255), ImageFont.load_default(36))
    masker = Masker()

    def off(image: Image.Image) -> float:
        return float((np.abs(np.asarray(image).astype(int) - np.asarray(plain)).max(2) > 30).mean())

    assert off(written) > 0.03
    assert off(masker(written)) < 0.002  # of the words
    for number in range(4):
        assert masker(picture := scene(number)[1]) is picture


def test_masking_needs_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
    with pytest.raises(ConfigError, match="mask_text needs what is not installed here: rapidocr"):
        Masker()
