"""Scores against brute force, DataComp's files, published heads rebuilt in torch, and a score of a user's own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_clip import adopted, encoded, scene, write_model

from infra.cluster import Limits
from infra.errors import ConfigError, DataError, UsageError
from infra.formats.vectors import Vectors, read_vectors, vector_shards, write_vectors
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import adopt
from pipelines.curate import embed, score
from pipelines.curate import filter as filtering
from pipelines.curate.filter.rules import TextWords
from pipelines.curate.score.scores import Aesthetic, ClipScore, NegCLIPLoss, NormSim, Score, TMars, Unsafe
from pipelines.tables import read_table
from tests.pipelines.user_scores import Oddness, Wrong

ROWS, WIDTH = 2000, 32


def directions(seed: int, rows: int) -> np.ndarray:
    """Vectors that CLIP could have made: unit rows about a few centres."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(8, WIDTH))
    found = centres[random.integers(8, size=rows)] + 0.7 * random.normal(size=(rows, WIDTH))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def embedded(folder, images, texts, per_shard=300) -> Artifact:
    """An artifact of the embed stage with these vectors."""
    context = Context(folder)
    for number, start in enumerate(range(0, len(images), per_shard)):
        part = slice(start, start + per_shard)
        uids = [f"{row:032x}" for row in range(len(images))[part]]
        rows = pa.table({"uid": uids, "captions": pa.array([1] * len(uids), pa.int32())})
        write_vectors(context.output, f"{number:05d}", rows, images[part], texts[part], "clip")
    return Artifact(context.store, context.finish(facts={"captions": len(images), "lists": False}))


def selected(folder, rows, per_shard=300) -> Artifact:
    """A selection of as many rows; there are no images to draw."""
    context = Context(folder)
    for shard, start in enumerate(range(0, rows, per_shard)):
        numbers = range(rows)[start : start + per_shard]
        columns = {"uid": [f"{row:032x}" for row in numbers], "key": [f"{row:09d}" for row in numbers]}
        size = pa.array([64] * len(numbers), pa.int32())
        table = pa.table({**columns, "shard": pa.array([shard] * len(numbers), pa.int32()), "original_width": size})
        table = table.append_column("original_height", size).append_column("caption", table["key"])
        context.output.write_table(f"data/kept-{shard:05d}.parquet", table)
    return Artifact(context.store, context.finish())


def column(artifact, name) -> np.ndarray:
    files = artifact.files("data/kept-", ".parquet")
    return np.concatenate([read_table(artifact.store, file.path)[name].to_numpy() for file in files])


@pytest.fixture
def pool(tmp_path, images_artifact, monkeypatch):
    """Inputs of 2,000 rows; galleries are not what these tests are about."""
    monkeypatch.setattr("pipelines.curate.gallery.draw", lambda *args: None)
    images, texts = directions(1, ROWS), directions(1, ROWS) * 0.8 + 0.2 * directions(2, ROWS)
    embeddings = embedded(tmp_path / "embeddings", images, texts)
    references = embedded(tmp_path / "references", directions(3, 700), directions(4, 700))
    inputs = {"embeddings": embeddings, "references": references, "selection": selected(tmp_path / "selection", ROWS)}
    return inputs | {"images": images_artifact([])}


def joined(artifact) -> tuple[np.ndarray, np.ndarray]:
    """All vectors in float64."""
    shards = [read_vectors(artifact.store, shard) for shard in vector_shards(artifact)]
    return np.concatenate([s.images for s in shards]).astype("f8"), np.concatenate([s.texts for s in shards]).astype(
        "f8"
    )


def test_scores_of_the_whole_set_are_brute_force(ray_cluster, pool, finished, monkeypatch):
    monkeypatch.setattr("pipelines.curate.score.passes._LOT", 700)  # several tasks in the first pass
    scores = (ClipScore(), NegCLIPLoss(), NormSim(), NormSim(p="2", column="vas"))
    made = finished(score.run, score.Config(scores=scores), pool)
    images, texts = joined(pool["embeddings"])
    references, _ = joined(pool["references"])
    similarity = (images * texts).sum(1)
    np.testing.assert_allclose(column(made, "clip_score"), similarity, atol=1e-6)
    logits = images @ texts.T / 0.01
    both = np.log(np.exp(logits - 100).sum(1)) + np.log(np.exp(logits - 100).sum(0)) + 200
    np.testing.assert_allclose(column(made, "neg_clip_loss"), similarity - 0.005 * both, atol=1e-5)
    cosines = images @ references.T
    np.testing.assert_allclose(column(made, "norm_sim"), np.abs(cosines).max(1), atol=1e-6)
    np.testing.assert_allclose(column(made, "vas"), np.sqrt((cosines**2).sum(1)), rtol=1e-6)
    assert made.manifest.metrics["clip_score"] == pytest.approx(similarity.mean(), abs=1e-6)
    assert made.manifest.funnel.kept == ROWS
    assert not list(made.store.paths("first_pass"))


def test_batches_are_drawn_by_ids(ray_cluster, pool, finished):
    """Each pair meets the batches of its seed, with itself added where it was not drawn."""
    made = finished(score.run, score.Config(scores=(NegCLIPLoss(batch=300, rounds=3, seed=5),)), pool)
    images, texts = joined(pool["embeddings"])
    total = np.zeros(ROWS)
    for number in range(3):
        member = np.array([hash64(f"5/{number}/{row:032x}/0") < int(0.15 * 2**64) for row in range(ROWS)])
        assert 240 < member.sum() < 360
        logits = images @ texts.T / 0.01
        seen = member[None] | np.eye(ROWS, dtype=bool)
        for direction in (logits, logits.T):
            total += np.log(np.where(seen, np.exp(direction - 100), 0).sum(1)) + 100
    expected = (images * texts).sum(1) - 0.005 * total / 3
    np.testing.assert_allclose(column(made, "neg_clip_loss"), expected, atol=1e-5)
    # The nearest pairs decide, so a seventh of the pool is a rough picture of it.
    whole = finished(score.run, score.Config(scores=(NegCLIPLoss(),)), pool)
    assert np.corrcoef(column(whole, "neg_clip_loss"), column(made, "neg_clip_loss"))[0, 1] > 0.8


def test_bytes_do_not_depend_on_workers_or_kills(ray_cluster, pool, finished, tmp_path):
    config = score.Config(scores=(NegCLIPLoss(batch=300, rounds=2), NormSim()))
    whole = finished(score.run, config, pool, folder=tmp_path / "whole")
    again = finished(score.run, config.replace(limits=Limits(in_flight=1)), pool, folder=tmp_path / "again")
    for shard in ("00002", "00004"):
        Context(tmp_path / "again").ledger.forget(shard)
    left = finished(score.run, config, pool, folder=tmp_path / "again")
    contents = [{file.path: file.sha256 for file in one.manifest.files} for one in (whole, again, left)]
    assert contents[0] == contents[1] == contents[2]


def test_datacomps_files_are_found_by_uid(ray_cluster, pool, finished, tmp_path):
    """Their shards are others than those of the images, in another order, and hold rows that nobody has."""
    images, texts = joined(pool["embeddings"])
    order = np.random.default_rng(0).permutation(ROWS + 100)
    extra = np.ones((100, WIDTH))
    folder = tmp_path / "metadata"
    folder.mkdir()
    names = [f"{number:05d}" for number in range(7)]  # by chance those of our shards
    for part, name in zip(np.array_split(order[order != 7], 7), names, strict=True):
        pq.write_table(pa.table({"uid": [f"{row:032x}" for row in part]}), folder / f"{name}.parquet")
        vectors = {
            "b32_img": np.concatenate([images, extra])[part],
            "b32_txt": np.concatenate([texts, extra])[part],
            "l14_img": np.ones((len(part), 4)),
            "l14_txt": np.ones((len(part), 4)),
        }
        np.savez(folder / f"{name}.npz", **{key: value.astype(np.float16) for key, value in vectors.items()})
    theirs = adopted(folder, adopt.Embeddings(), tmp_path / "adopted")
    config = score.Config(scores=(ClipScore(column="clip_similarity"),), embedding="b32")
    made = finished(score.run, config, pool | {"embeddings": theirs})
    assert made.manifest.funnel.dropped == {"no_embedding": 1}
    expected = np.delete((images * texts).sum(1), 7)
    np.testing.assert_allclose(column(made, "clip_similarity"), expected, atol=1e-4)


def test_heads_are_torchs(ray_cluster, pool, finished, tmp_path):
    """Laid out as LAION's: a linear layer, and a sequence with gaps in its numbering."""
    torch.manual_seed(0)
    nn = torch.nn
    deep = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 1), nn.Sigmoid())
    flat = nn.Sequential(nn.Linear(WIDTH, 16), nn.Dropout(0.2), nn.Linear(16, 1)).eval()
    torch.save(deep.state_dict(), tmp_path / "deep.pth")
    torch.save({f"layers.{name}": value for name, value in flat.state_dict().items()}, tmp_path / "flat.pth")
    inputs = {
        "weights": adopted(tmp_path / "flat.pth", adopt.Weights(), tmp_path / "flat"),
        "weights_unsafe": adopted(tmp_path / "deep.pth", adopt.Weights(), tmp_path / "deep"),
    }
    scores = (Aesthetic(), Unsafe(weights="weights_unsafe"))
    made = finished(score.run, score.Config(scores=scores), pool | inputs)
    rows = torch.from_numpy(joined(pool["embeddings"])[0].astype("f4"))
    with torch.no_grad():
        np.testing.assert_allclose(column(made, "aesthetic"), flat(rows)[:, 0].numpy(), atol=1e-5)
        np.testing.assert_allclose(column(made, "unsafe"), deep(rows)[:, 0].numpy(), atol=1e-5)
    torch.save({"a": torch.ones(3, 5)}, tmp_path / "odd.pth")
    weights = adopted(tmp_path / "odd.pth", adopt.Weights(), tmp_path / "odd")
    with pytest.raises(DataError, match="not a head of linear layers"):
        Aesthetic().load({"weights": weights})
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match="is a Git LFS pointer"):
        adopted(tmp_path / "text.pth", adopt.Weights(), tmp_path / "text")


def test_the_whole_way_from_images(ray_cluster, images_artifact, finished, tmp_path):
    """Embedded, with words painted over, scored by ours and a user's; what cannot be read is accounted for."""
    given = [(caption, encoded(image)) for caption, image in map(scene, range(20))]
    given[4] = (given[4][0], given[4][1][:-200])
    given[6] = ("", given[6][1])
    images = images_artifact(given)
    model = adopted(write_model(tmp_path / "files"), adopt.Model(), tmp_path / "model")
    selection = finished(filtering.run, filtering.Config(rules=(TextWords(min=0),)), {"images": images})
    inputs = {"images": images, "selection": selection, "model": model}
    plain = finished(embed.run, embed.Config(), inputs)
    masked = finished(embed.run, embed.Config(mask_text=True), inputs)
    inputs |= {"embeddings": plain, "embeddings_masked": masked}
    config = score.Config(scores=(ClipScore(), TMars(), Oddness(), NegCLIPLoss()))
    made = finished(score.run, config, inputs)
    assert made.manifest.funnel.dropped == {"decode_failed": 1}
    table = read_table(made.store, "data/kept-00000.parquet")
    assert table["clip_score"].null_count == 1
    assert table["tmars"].to_pylist() == table["clip_score"].to_pylist()  # nothing is written on these
    names = {f"figures/{kind}_{one.name}.png" for kind in ("spread", "lowest", "highest") for one in config.scores}
    assert names == {file.path for file in made.files("figures/")}
    vectors = read_vectors(plain.store, "00000")
    oddness = 1 - vectors.texts @ vectors.texts.mean(0)
    np.testing.assert_allclose(table["oddness"].drop_null().to_numpy(), oddness, atol=1e-6)
    with pytest.raises(DataError, match="did not return one number per caption"):
        finished(score.run, score.Config(scores=(Wrong(),)), inputs)


def test_lists_of_captions_have_lists_of_scores(ray_cluster, images_artifact, finished, tmp_path):
    captions = [["one", "two"], None, ["three"]]
    rows = [
        (text, encoded(image), {"alts": alts})
        for (text, image), alts in zip(map(scene, range(3)), captions, strict=True)
    ]
    images = images_artifact(rows, extra=[pa.field("alts", pa.list_(pa.string()))])
    model = adopted(write_model(tmp_path / "files"), adopt.Model(), tmp_path / "model")
    made = finished(embed.run, embed.Config(captions="alts"), {"images": images, "model": model})
    scored = finished(score.run, score.Config(), {"images": images, "embeddings": made})
    values = read_table(scored.store, "data/kept-00000.parquet")["clip_score"].to_pylist()
    similarities = read_vectors(made.store, "00000").similarities.tolist()
    assert values == [pytest.approx(similarities[:2]), [], pytest.approx(similarities[2:])]


def test_nothing_at_all(ray_cluster, images_artifact, finished, tmp_path):
    model = adopted(write_model(tmp_path / "files"), adopt.Model(), tmp_path / "model")
    images = images_artifact([])
    made = finished(embed.run, embed.Config(), {"images": images, "model": model})
    scores = (ClipScore(), NegCLIPLoss(), NormSim())
    inputs = {"images": images, "embeddings": made, "references": made}
    scored = finished(score.run, score.Config(scores=scores), inputs)
    assert (scored.manifest.funnel.entered, scored.manifest.metrics) == (0, {})


def test_what_is_missing_is_named():
    with pytest.raises(UsageError, match="score 'norm_sim' needs the input 'references'"):
        score.Config(scores=(NormSim(),)).check_inputs({"images", "embeddings"})
    with pytest.raises(UsageError, match="score 'tmars' needs the input 'embeddings_masked'"):
        score.Config(scores=("tmars",)).check_inputs({"images", "embeddings"})
    with pytest.raises(ConfigError, match="2 scores have the column 'norm_sim'"):
        score.Config(scores=(NormSim(), NormSim(p="2")))
    with pytest.raises(ConfigError, match="lower-case letters"):
        ClipScore(column="CLIP score")
    assert {"clip_score", "tmars", "neg_clip_loss", "norm_sim", "head", "aesthetic", "unsafe"} <= set(Score.members())


def test_vectors_are_taken_with_all_their_captions():
    counts = np.array([2, 0, 3, 1])
    texts = np.arange(6, dtype=np.float32)[:, None]
    vectors = Vectors(list("abcd"), np.arange(4, dtype=np.float32)[:, None], texts, np.repeat(np.arange(4), counts))
    taken = vectors.take(np.array([3, 2, 1, 0, 2]))
    assert taken.texts[:, 0].tolist() == [5, 2, 3, 4, 0, 1, 2, 3, 4]
    assert taken.row_of.tolist() == [0, 1, 1, 1, 3, 3, 4, 4, 4]
    assert all(a <= b for a, b in pairwise(taken.row_of))
