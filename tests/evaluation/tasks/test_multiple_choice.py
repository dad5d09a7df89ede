"""Multiple choice in steps, against a loop over ways to break levels, and scorers that know part of the truth."""

from __future__ import annotations

import itertools
import json
import re

import evaluation_samples as samples
import numpy as np
import pytest
from embedded_by import embedded

from evaluation.tasks import MultipleChoice
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context
from infra.run.manifest import Artifact
from workflows.demo import testset
from workflows.demo.reasons import reason

TASK = MultipleChoice(dataset="reasons")


def opened(folder, given, kind="multiple_choice") -> EvalSet:
    """A set of samples, each its choices and what its json says."""
    members = []
    for number, (choices, fields) in enumerate(given):
        members += [(f"s{number}.png", samples.picture(number)), (f"s{number}.txt", "\n".join(choices).encode())]
        members += [(f"s{number}.json", json.dumps(fields).encode())]
    files = {
        "data/reasons/dataset_type.txt": kind.encode(),
        "data/reasons/test/nshards.txt": b"1",
        "data/reasons/test/0.tar": samples.tar(members),
    }
    return EvalSet.open(samples.write_artifact(folder, files), "reasons", "test")


def values(scores) -> dict[str, float]:
    return {name: metric.value for name, metric in scores.metrics.items()}


def test_scores_against_a_loop_over_all_ways_to_break_levels(tmp_path):
    """Unit vectors with one entry: scores are 0 or 1, and most choices are level."""
    random, steps = np.random.default_rng(3), [{"answer": 4, "rationale": 3}, {"answer": 2, "rationale": 4}] * 6
    given = [
        (
            [f"{number} {choice}" for choice in range(sum(sizes.values()))],
            {"steps": sizes, "category": "ab"[number % 2]},
        )
        for number, sizes in enumerate(steps)
    ]
    vector = {}
    data = embedded(
        opened(tmp_path, given),
        lambda number, _: np.eye(3)[number % 3],
        lambda caption: vector.setdefault(caption, np.eye(3)[random.integers(3)]),
    )
    taken: dict[str, list[float]] = {"answer_acc": [], "rationale_acc": [], "acc": []}
    for number, (choices, fields) in enumerate(given):
        scores, each, at = [vector[choice][number % 3] for choice in choices], [], 0
        for size in fields["steps"].values():
            own = scores[at : at + size]
            each.append([place for place, score in enumerate(own) if score == max(own)])
            at += size
        ways = list(itertools.product(*each))
        for name, right in (("answer_acc", 0), ("rationale_acc", 1)):
            taken[name].append(np.mean([way[right] == 0 for way in ways]))
        taken["acc"].append(np.mean([way == (0, 0) for way in ways]))
    found = TASK.evaluate(data)
    assert {name: values(found)[name] for name in taken} == pytest.approx(
        {name: np.mean(own) for name, own in taken.items()}
    )
    assert found.groups["categories"]["a"]["acc"].value == pytest.approx(np.mean(taken["acc"][::2]))
    assert found.facts["acc_by_chance"] == pytest.approx((1 / 12 + 1 / 8) / 2)

    class Own(MultipleChoice):
        """A user's, which is asked for the same kind of set."""

        kind = ""  # none that other tests would see

    assert values(Own(dataset="reasons").evaluate(data)) == values(found)


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        ({}, "multiple_choice"),
        ({"steps": {"answer": 2}}, "multiple_choice"),
        ({"steps": {"rationale": 1, "answer": 3}}, "multiple_choice"),
        ({"steps": {"rationale": 2, "answer": 2}}, "multiple_choice"),
        ({"steps": [2, 2]}, "multiple_choice"),
        ({"steps": {"answer": 2, "rationale": 2}}, "retrieval"),
    ],
)
def test_steps_that_do_not_fit_are_told(tmp_path, second, kind):
    given = [("abcd", {"steps": {"answer": 2, "rationale": 2}}), ("abcd", second)]
    data = embedded(opened(tmp_path, given, kind), lambda *_: [1, 0], lambda _: [1, 0])
    with pytest.raises(DataError, match=r"s1|no choices"):
        TASK.evaluate(data)


# --- the demo's set


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo's set of groups that training never shows, and their truth in the set's order."""
    context = Context(tmp_path_factory.mktemp("sets"))
    small = {"seen_per_class": 1, "unseen_per_class": 1, "captioned": 1, "compositions": 1, "analogies": 1}
    manifest = testset.run(testset.Config(**small, image_size=32, questions=40), {}, context)
    truth = [one for n in range(40) for one in reason(6 * testset.TEST_SEEDS + n, unseen=True)]
    return EvalSet.open(Artifact(context.store, manifest), "reasons", "unseen"), truth


def parsed(choice: str) -> tuple[str, ...]:
    return re.fullmatch(
        r"what colour is the shape (.+) the (\w+)\? (\w+)(?:, the (\w+) is (\w+) and (.+) the (\w+))?", choice
    ).groups()


def true_of(choice: str, items) -> bool:
    """Whether all that a choice says holds, by the places of the shapes alone."""
    relation, third, colour, shape, said, place, _ = parsed(choice)
    (middle,) = [item for item in items if item.shape == third]

    def holds(where, item):
        x, y = np.subtract(item.place, middle.place)
        return {"left of": x < 0, "right of": x > 0, "above": y < 0, "below": y > 0}[where]

    if shape is None:
        return colour in {item.colour for item in items if item is not middle and holds(relation, item)}
    (named,) = [item for item in items if item.shape == shape]
    return named.colour == said and bool(holds(place, named))


def test_the_first_choice_of_a_step_is_true_and_no_other(shown):
    _, truth = shown
    for one in truth:
        for choices in (one.answers, one.reasons):
            assert [true_of(choice, one.image.items) for choice in choices] == [True] + [False] * (len(choices) - 1)
            assert len(set(choices)) == 4


@pytest.mark.parametrize(("knows", "expected"), [("all", 1.0), ("nothing", 1 / 16), ("words", 0.0)])
def test_what_scorers_get_that_know_some_of_it(shown, knows, expected):
    """``words``: one that always likes the same of the two images' answers gets half of the first step."""
    examples, truth = shown
    texts = sorted({choice for one in truth for choice in (*one.answers, *one.reasons)})
    place = {text: number for number, text in enumerate(texts)}

    def image(number, sample):
        if knows == "all":
            return sum(
                np.eye(len(texts) + 1)[place[text]] for text in (truth[number].answers[0], truth[number].reasons[0])
            )
        if knows == "nothing":
            return np.eye(len(texts) + 1)[-1]
        return np.arange(len(texts) + 1.0, 0, -1)

    found = values(TASK.evaluate(embedded(examples, image, lambda text: np.eye(len(texts) + 1)[place[text]])))
    if knows == "words":
        assert found["answer_acc"] <= 0.5
        assert found["rationale_acc"] <= 0.5
        assert found["acc_other_image"] == pytest.approx(found["acc"])
    else:
        assert found["acc"] == pytest.approx(expected)
