"""Selection against loops over all choices, and scorers that know nothing of the image or the order of words."""

from __future__ import annotations

import itertools
import json

import evaluation_samples as samples
import numpy as np
import pyarrow.parquet as pq
import pytest
from embedded_by import embedded

from evaluation import evaluate
from evaluation.evaluate import work
from evaluation.tasks import ImageCaptionSelection
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from workflows.demo import testset

TASK = ImageCaptionSelection(dataset="chosen")


def files(given) -> dict[str, bytes]:
    """``data/chosen`` of samples, each its captions and what its json says."""
    members = []
    for number, (captions, fields) in enumerate(given):
        members += [(f"s{number}.png", samples.picture(number)), (f"s{number}.txt", "\n".join(captions).encode())]
        members += [(f"s{number}.json", json.dumps(fields).encode())]
    return {
        "data/chosen/dataset_type.txt": b"image_caption_selection",
        "data/chosen/test/nshards.txt": b"1",
        "data/chosen/test/0.tar": samples.tar(members),
    }


def values(scores) -> dict[str, float]:
    return {name: metric.value for name, metric in scores.metrics.items()}


def drawn(seed: int, images: int, wrong: int, groups: int = 40):
    """Groups of so many images, each with so many wrong captions beside its own; vectors of small whole numbers."""
    return [
        ([f"{group} {image} {caption}" for caption in range(wrong + 1)], {"group": group, "category": "ab"[group % 2]})
        for group in range(groups)
        for image in range(images)
    ]


def chosen_in_loops(scores: np.ndarray) -> tuple[float, float, float]:
    """Text score, image score and group match of a group (k, c), over every way to break levels."""
    k, c = scores.shape

    def best(row):
        return [place for place, score in enumerate(row) if score == max(row)]

    def share(rows):
        ways = list(itertools.product(*map(best, rows)))
        return sum(way == tuple(range(k)) for way in ways) / len(ways)

    ways = list(itertools.permutations(range(c), k))
    sums = [sum(scores[image, caption] for image, caption in enumerate(way)) for way in ways]
    top = [way for way, total in zip(ways, sums, strict=True) if total == max(sums)]
    return share(scores), share(scores[:, :k].T), (tuple(range(k)) in top) / len(top)


@pytest.mark.long
@pytest.mark.parametrize(("images", "wrong"), [(1, 1), (1, 3), (2, 0), (2, 1), (3, 0), (3, 1)])
def test_scores_against_loops_with_many_levels(images, wrong, tmp_path):
    """Unit vectors with one entry: scores are 0 or 1, and half of the choices are level."""
    chosen = samples.write_artifact(tmp_path, files(drawn(0, images, wrong)))
    examples, random = EvalSet.open(chosen, "chosen", "test"), np.random.default_rng(1)
    entry = {}
    data = embedded(
        examples,
        lambda number, _: np.eye(4)[random.integers(4)],
        lambda caption: entry.setdefault(caption, np.eye(4)[random.integers(4)]),
    )
    scores = TASK.evaluate(data)
    expected = []
    for group in range(40):
        rows = range(group * images, (group + 1) * images)
        right = [f"{group} {image} 0" for image in range(images)]
        others = [f"{group} {image} {caption}" for image in range(images) for caption in range(1, wrong + 1)]
        texts = np.array([entry[caption] for caption in right + others])
        expected.append(chosen_in_loops(np.round(data.images[list(rows)] @ texts.T, 3)))
    text, image, match = np.array(expected).T
    found = values(scores)
    assert 0 < found["acc"] < 1
    assert found["acc"] == pytest.approx((text * image).mean())
    assert found["mean_per_category_acc"] == pytest.approx(found["acc"])  # as many groups in each
    if images > 1:
        assert found["text_acc"] == pytest.approx(text.mean())
        assert found["image_acc"] == pytest.approx(image.mean())
        assert found["group_match"] == pytest.approx(match.mean())
    else:
        assert set(found) == {"acc", "mean_per_category_acc"}
        assert match == pytest.approx(text)
    by_category = {name: values["acc"].value for name, values in scores.groups["categories"].items()}
    assert by_category == {
        "a": pytest.approx((text * image)[::2].mean()),
        "b": pytest.approx((text * image)[1::2].mean()),
    }


@pytest.mark.long
def test_chance_is_what_random_scores_get(tmp_path):
    chosen = samples.write_artifact(tmp_path, files([*drawn(0, 2, 0, 60)]))
    examples, random = EvalSet.open(chosen, "chosen", "test"), np.random.default_rng(2)
    runs = [
        TASK.evaluate(embedded(examples, lambda *_: random.normal(size=8), lambda _: random.normal(size=8)))
        for _ in range(15)
    ]
    chance = runs[0].facts["chance"]
    assert chance == {"acc": 1 / 6, "text_acc": 1 / 4, "image_acc": 1 / 4, "group_match": 1 / 2}
    for name, expected in chance.items():
        assert np.mean([values(one)[name] for one in runs]) == pytest.approx(expected, abs=0.03)


# --- the sets of the demo ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composed(tmp_path_factory) -> Artifact:
    context = Context(tmp_path_factory.mktemp("testset"), stage="testset")
    config = testset.Config(seen_per_class=1, unseen_per_class=1, captioned=1, compositions=12, image_size=32)
    return Artifact(context.store, testset.run(config, {}, context))


def bag_of_words(caption: str) -> np.ndarray:
    """A vector of the words and how often each is there, whatever their order."""
    words = [np.random.default_rng(list(word.encode())).integers(-9, 10, 16) for word in sorted(caption.split())]
    return np.sum(words, axis=0)


def of_letters(caption: str) -> np.ndarray:
    return np.random.default_rng(list(caption.encode())).normal(size=16)


@pytest.mark.long
def test_a_bag_of_words_gets_chance_exactly(composed):
    random = np.random.default_rng(3)
    for name in ("choices", "compositions"):
        examples = EvalSet.open(composed, name, "test")
        found = TASK.evaluate(embedded(examples, lambda *_: random.normal(size=16), bag_of_words))
        if name == "choices":
            assert set(values(found).values()) == {0.5}
            assert {one["acc"].value for one in found.groups["categories"].values()} == {0.5}
        else:
            assert values(found) == pytest.approx(
                {"acc": 0, "text_acc": 1 / 4, "image_acc": 0, "group_match": 1 / 2, "mean_per_category_acc": 0}
            )


@pytest.mark.long
def test_who_does_not_see_the_image_gets_chance_exactly(composed):
    for name in ("choices", "compositions"):
        examples = EvalSet.open(composed, name, "test")
        found = TASK.evaluate(embedded(examples, lambda *_: np.ones(16), of_letters))
        if name == "choices":
            assert set(values(found).values()) == {0.5}
            assert {one["acc"].value for one in found.groups["categories"].values()} == {0.5}
        else:
            assert values(found)["group_match"] == 1 / 2
            assert values(found)["acc"] == values(found)["text_acc"] == 0


@pytest.mark.long
def test_who_knows_gets_all(composed):
    for name in ("choices", "compositions"):
        examples = EvalSet.open(composed, name, "test")
        found = TASK.evaluate(embedded(examples, lambda _, sample: of_letters(sample.captions[0]), of_letters))
        assert set(values(found).values()) == {1.0}
        assert found.facts["groups"] == (96 if name == "choices" else 48)


# --- through the stages -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_one_pass_and_the_files(model, composed, tmp_path):
    vectors = samples.embed_here(tmp_path / "embedded", model, composed, "compositions", "choices")
    for name in ("compositions", "choices"):
        config = evaluate.Config(task=ImageCaptionSelection(dataset=name), bootstrap=50)
        output = ShardOutput(Context(tmp_path / name).store, name)
        record = work.evaluate(config, {"embeddings": vectors, "dataset": composed}, output)
        rows = pq.read_table(tmp_path / name / "data/categories.parquet").to_pylist()
        assert [row["group"] for row in rows] == ["attribute", "count", "negation", "relation"]
        assert all(row["acc_low"] <= row["acc"] <= row["acc_high"] for row in rows)
        table = pq.read_table(tmp_path / name / "data/selections.parquet")
        assert table.num_rows == record.facts["groups"]
        assert np.mean(table["acc"]) == pytest.approx(record.facts["metrics"]["acc"]["value"])
        assert (tmp_path / name / "figures/selections.png").stat().st_size > 5000
        (result,) = (tmp_path / name / "data").glob("*.json")
        assert result.name.endswith("_en_image_caption_selection.json")


@pytest.mark.parametrize(("given", "message"), [
    ([(["a"], {}), (["a", "b"], {})], "leaves no choice"),
    ([(["a", "b"], {"group": 1}), (["b", "c"], {"group": 1})], "has a caption twice"),
    ([(["a"], {"group": 1, "category": "x"}), (["b"], {"group": 1})], "is in two categories"),
    ([(["a", "b"], {}), (["a"], {"group": 1}), (["b"], {"group": 1})], "have one image, others several"),
    ([(list("abcdefghij"), {"group": 1}) for _ in range(1)] + [(list("klmnopqrst"), {"group": 1})] * 0
     + [([chr(200 + i)], {"group": 1}) for i in range(9)], "is too large"),
])  # fmt: skip
def test_what_cannot_be_chosen_is_named(given, message, tmp_path):
    chosen = samples.write_artifact(tmp_path, files(given))
    examples = EvalSet.open(chosen, "chosen", "test")
    with pytest.raises(DataError, match=message):
        TASK.evaluate(embedded(examples, lambda *_: np.ones(4), of_letters))


def test_a_set_whose_captions_are_all_right_is_refused(holdout):
    with pytest.raises(DataError, match="has no wrong captions"):
        TASK.evaluate(embedded(EvalSet.open(holdout, "holdout", "test"), lambda *_: np.ones(16), of_letters))
