"""Decontamination against brute force, and on pools that hold what test sets hold: copies, crops, other formats."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from small_clip import adopted, encoded, scene, write_model

from infra.cluster import Limits
from infra.errors import DataError, UsageError
from infra.formats.vectors import read_vectors, vector_shards
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import adopt
from pipelines.curate import decontaminate, dedup, embed, shard
from pipelines.curate import filter as filtering
from pipelines.curate.decontaminate.index import Index
from pipelines.curate.dedup.signatures import signature
from pipelines.curate.vectors import packed
from pipelines.tables import read_table


def tar(members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def classification(folder, name, shards) -> None:
    """A set in CLIP_benchmark's layout; ``shards``: lists of (key, encoded image)."""
    split = folder / name / "test"
    split.mkdir(parents=True)
    (folder / name / "classnames.txt").write_text("a\n")
    (split / "nshards.txt").write_text(str(len(shards)))
    for number, images in enumerate(shards):
        (split / f"{number}.tar").write_bytes(
            tar([member for key, data in images for member in ((f"{key}.cls", b"0"), (f"{key}.jpg", data))])
        )


def found(artifact) -> dict[str, tuple]:
    """Of dropped rows, by caption: reason, nearest test image and its distance."""
    files = artifact.files("data/dropped-", ".parquet")
    rows = [row for file in files for row in read_table(artifact.store, file.path).to_pylist()]
    return {row["caption"]: (row["reason"], row["nearest_test"], row["test_distance"]) for row in rows}


def picture(number: int) -> Image.Image:
    """Unlike any other: a scene on a ground of blots."""
    rng = np.random.default_rng(number)
    blots = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
    return Image.blend(blots, scene(number, 256)[1].resize((256, 256)), 0.4)


@pytest.fixture(scope="module")
def pictures():
    return [picture(number) for number in range(24)]


def of_the_sets(pictures) -> list[bytes]:
    """Four of the pool in other forms, and one more."""
    changed = (pictures[7], pictures[11].crop((12, 12, 244, 244)), pictures[13].resize((120, 120)))
    return [encoded(pictures[2]), encoded(pictures[20]), encoded(changed[0], "WEBP"), *map(encoded, changed[1:])]


@pytest.fixture
def leaky(tmp_path, images_artifact, pictures):
    """A pool of 20 images, three to a shard, of which two sets hold some in one form or another; and what is where."""
    b0, b1, b2, c0, c1 = of_the_sets(pictures)
    changed = {"birds/sub": [[("b0", b0), ("b1", b1)], [("b2", b2)]], "cats": [[("c0", c0), ("c1", c1)]]}
    for name, shards in changed.items():
        classification(tmp_path / "sets", name, shards)
    images = images_artifact([(f"picture {n}", image) for n, image in enumerate(pictures[:18])] + [("none", None)], 3)
    leaks = {2: "birds/sub/test/b0", 7: "birds/sub/test/b2", 11: "cats/test/c0", 13: "cats/test/c1"}
    return {"images": images, "testsets": adopted(tmp_path / "sets", adopt.TestSets(), tmp_path / "tests")}, leaks


def test_copies_of_test_images_go_and_name_them(ray_cluster, leaky, finished):
    inputs, leaks = leaky
    made = finished(decontaminate.run, decontaminate.Config(), inputs)
    dropped = found(made)
    assert {name: one[:2] for name, one in dropped.items()} == {
        f"picture {number}": ("contaminated", test) for number, test in leaks.items()
    }
    assert all(0 <= distance <= 6 for *_, distance in dropped.values())
    assert (made.manifest.funnel.entered, made.manifest.funnel.kept) == (18, 14)
    assert made.manifest.facts["test_images"] == 5
    (figure,) = made.files("figures/dropped_contaminated", ".png")
    with made.store.open(figure.path) as source, Image.open(source) as montage:
        assert montage.width > 800  # four images in a row: two pairs
    assert not list(made.store.paths("test_index"))
    without = finished(decontaminate.run, decontaminate.Config(crops=False), inputs)
    assert {"picture 2", "picture 7", "picture 13"} <= found(without).keys() <= dropped.keys()


def test_signatures_of_dedup_are_taken(ray_cluster, leaky, finished, tmp_path):
    inputs, leaks = leaky
    some = filtering.Config(rules=(filtering.rules.TextList(entries=["picture 1", "picture 7"]),))  # drops these two
    kept = finished(filtering.run, some, {"images": inputs["images"]})
    context = Context(tmp_path / "unique", config=dedup.Config().model_dump(mode="json"))
    manifest = dedup.run(dedup.Config(), {"images": inputs["images"], "selection": kept}, context)
    unique = Artifact(context.store, manifest)
    anew = finished(decontaminate.run, decontaminate.Config(), inputs)
    made = finished(decontaminate.run, decontaminate.Config(), {**inputs, "signatures": unique})
    assert found(made) == found(anew) and len(found(made)) == len(leaks)
    assert (made.manifest.facts["hashed"], anew.manifest.facts["hashed"]) == (2, 18)
    after = {**inputs, "selection": unique, "signatures": unique}
    made = finished(decontaminate.run, decontaminate.Config(), after)
    assert made.manifest.facts["hashed"] == 0 and found(made).keys() == found(anew).keys() - {"picture 7"}
    with pytest.raises(DataError, match=r"dedup\.crops=True"):
        finished(decontaminate.run, decontaminate.Config(crops=False), after)


def test_a_holdout_of_shard_is_a_test_set(ray_cluster, images_artifact, finished, pictures):
    images = images_artifact([(f"picture {number}", image) for number, image in enumerate(pictures)])
    kept = finished(filtering.run, filtering.Config(rules=()), {"images": images})
    shards = finished(shard.run, shard.Config(holdout_fraction=0.3), {"images": images, "selection": kept})
    inputs = {"images": images, "selection": kept, "testsets": shards, "testsets_again": shards}
    made = finished(decontaminate.run, decontaminate.Config(), inputs)
    assert made.manifest.funnel.dropped == {"contaminated": shards.manifest.facts["holdout"]}
    assert all(test.startswith("holdout/test/") and bits == 0 for _, test, bits in found(made).values())


def test_vectors_of_both_are_compared(ray_cluster, leaky, images_artifact, finished, tmp_path, pictures):
    inputs, leaks = leaky
    model = adopted(write_model(tmp_path / "clip"), adopt.Model(), tmp_path / "model")
    embeddings = finished(embed.run, embed.Config(), {"images": inputs["images"], "model": model})
    every = {**inputs, "embeddings": embeddings, "model": model}
    made = finished(decontaminate.run, decontaminate.Config(cosine=0.9999), every)
    assert {f"picture {number}" for number in leaks} <= found(made).keys()

    # The oracle: the test images, embedded as a pool.
    pool = {
        "images": images_artifact([("", image) for image in of_the_sets(pictures)]),
        "model": model,
    }  # in place of the other
    tests = finished(embed.run, embed.Config(), pool)
    theirs = np.concatenate([read_vectors(tests.store, name).images for name in vector_shards(tests)])
    ours = np.concatenate([read_vectors(embeddings.store, name).images for name in vector_shards(embeddings)])
    assert len(theirs) == 5
    tables = [read_table(made.store, file.path) for file in made.files("data/", ".parquet")]
    cosines = {row["caption"]: row["test_cosine"] for table in tables for row in table.to_pylist()}
    expected = (ours @ theirs.T).max(axis=1)
    np.testing.assert_allclose([cosines[f"picture {number}"] for number in range(18)], expected, atol=2e-3)


@pytest.mark.parametrize("distance", [0, 3, 6, 9])
def test_near_keys_are_those_of_brute_force(distance):
    random = np.random.default_rng(distance)
    keys = random.integers(0, 2**64, (300, 3), np.uint64)
    asked = keys[random.integers(300, size=200), random.integers(3, size=200)]
    flips = [sum(1 << int(bit) for bit in random.choice(64, random.integers(12), replace=False)) for _ in asked]
    asked = asked ^ np.array(flips, np.uint64)
    empty = [b""] * 300
    lists = pa.array(keys.tolist(), pa.list_(pa.uint64()))
    columns = {"key": [str(n) for n in range(300)], "shard": [0] * 300, "keys": lists}
    table = pa.table({**columns, "thumbnail": pa.array(empty, pa.large_binary())})
    index = Index(decontaminate.Config(max_distance=distance), table)
    hits, wanted = 0, []
    for key in asked.tolist():
        bits = np.bitwise_count(keys ^ np.uint64(key)).min(axis=1)
        order = np.lexsort((np.arange(300), bits))
        expected = [(int(n), int(bits[n])) for n in order if bits[n] <= distance]
        wanted.append(expected)
        hits += len(expected)
    assert hits >= 10
    lists = [[key] for key in asked.tolist()]
    found = [list(zip(*map(np.ndarray.tolist, one), strict=True)) for one in index.near([*lists, []])]
    assert found == [*wanted, []]
    # A row of several keys finds what any of them finds.
    pairs = index.near([lists[n] + lists[n + 1] for n in range(0, 200, 2)])
    both = [{place for place, _ in wanted[n] + wanted[n + 1]} for n in range(0, 200, 2)]
    assert [set(places.tolist()) for places, _ in pairs] == both


def test_cosines_are_those_of_brute_force():
    random = np.random.default_rng(1)
    tests, rows = (random.normal(size=(count, 16)).astype(np.float32) for count in (5000, 700))
    tests, rows = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (tests, rows))
    count = len(tests)
    table = pa.table({"key": [""] * count, "shard": [0] * count, "vector": packed(tests)})
    table = table.append_column("keys", pa.array([[]] * count, pa.list_(pa.uint64())))
    index = Index(decontaminate.Config(), table.append_column("thumbnail", pa.array([b""] * count, pa.large_binary())))
    place, cosine = index.by_cosine(rows)
    np.testing.assert_allclose(cosine, (rows @ tests.T).max(axis=1), atol=1e-3)
    np.testing.assert_allclose((rows * tests[place]).sum(axis=1), cosine, atol=1e-3)
    with pytest.raises(DataError, match="not the one of the embeddings"):
        index.by_cosine(rows[:, :8])


def digests(artifact) -> dict[str, str]:
    return {file.path: file.sha256 for file in artifact.manifest.files}


def test_bytes_are_the_same_for_any_workers_and_after_a_kill(ray_cluster, leaky, finished, tmp_path, monkeypatch):
    inputs, _ = leaky
    made = finished(decontaminate.run, decontaminate.Config(), inputs)
    module = "pipelines.curate.decontaminate.stage"
    whole = decontaminate.stage.run_batches
    monkeypatch.setattr(f"{module}._ROWS", 4)
    for workers in (1, 4):
        again = finished(decontaminate.run, decontaminate.Config(limits=Limits(in_flight=workers)), inputs)
        assert digests(again) == digests(made)

    def ended_early(context, specs, work, limits, **options):
        whole(context, specs[:2], work, limits, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"{module}.run_batches", ended_early)
        with pytest.raises(KeyboardInterrupt):
            finished(decontaminate.run, decontaminate.Config(), inputs, tmp_path / "killed")
    assert digests(finished(decontaminate.run, decontaminate.Config(), inputs, tmp_path / "killed")) == digests(made)


def test_sets_without_images_and_pools_without_rows(ray_cluster, images_artifact, finished, tmp_path, pictures):
    holdout = Context(tmp_path / "holdout")
    holdout.output.write("data/holdout/dataset_type.txt", b"retrieval")
    holdout.output.write("data/holdout/test/nshards.txt", b"0")
    nothing = Artifact(holdout.store, holdout.finish())
    images = images_artifact([("a picture", pictures[0])])
    made = finished(decontaminate.run, decontaminate.Config(), {"images": images, "testsets": nothing})
    assert made.manifest.funnel.kept == 1
    classification(tmp_path / "sets", "a", [[("0", encoded(pictures[0]))]])
    tests = adopted(tmp_path / "sets", adopt.TestSets(), tmp_path / "tests")
    made = finished(decontaminate.run, decontaminate.Config(), {"images": images_artifact([]), "testsets": tests})
    assert made.manifest.funnel.entered == 0


def test_a_test_image_that_cannot_be_read_ends_it(ray_cluster, images_artifact, finished, tmp_path, pictures):
    classification(tmp_path / "sets", "a", [[("7", b"not an image")]])
    tests = adopted(tmp_path / "sets", adopt.TestSets(), tmp_path / "tests")
    with pytest.raises(DataError, match="a/test/7"):
        inputs = {"images": images_artifact([("a", pictures[0])]), "testsets": tests}
        finished(decontaminate.run, decontaminate.Config(), inputs)


def test_a_model_without_embeddings_is_refused():
    with pytest.raises(UsageError, match="no embeddings"):
        decontaminate.Config().check_inputs(["images", "testsets", "model"])
    with pytest.raises(UsageError, match="no model"):
        decontaminate.Config().check_inputs(["images", "testsets", "embeddings"])
    decontaminate.Config().check_inputs(["images", "testsets"])


def test_other_pictures_are_no_copies(pictures):
    columns = {"key": [str(n) for n in range(12)], "shard": [0] * 12}
    signatures = [signature(encoded(one)) for one in pictures[:12]]
    table = pa.table(columns).append_column(
        "keys", pa.array([one.all_keys for one in signatures], pa.list_(pa.uint64()))
    )
    thumbnails = pa.array([one.thumbnail for one in signatures], pa.large_binary())
    index = Index(decontaminate.Config(max_distance=15), table.append_column("thumbnail", thumbnails))
    for number, one in enumerate(pictures):
        shown = signature(encoded(one))
        nearest, _ = index.nearest(shown, *index.near([shown.all_keys])[0])
        assert (nearest and nearest.place) == (number if number < 12 else None)
