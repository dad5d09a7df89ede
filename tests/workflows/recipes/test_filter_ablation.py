"""The recipe ``filter_ablation``: every filter's models differ in what they are trained on, and in nothing else."""

from collections import Counter

import pytest

from workflows.recipe import load

SETS = ('classification=["seen"]', 'captions=["captions"]')


@pytest.fixture
def given(tmp_path):
    """Settings with folders that hold what they should, as far as planning looks."""
    files = {
        "images/00000.tar": b"",
        "images/00000.parquet": b"",
        "trusted/00000.tar": b"",
        "scorer.pt": b"",
        **{f"tests/{name}/test/{file}": b"1" for name in ("seen", "captions") for file in ("nshards.txt", "0.tar")},
    }
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return [f"images={tmp_path}/images", f"tests={tmp_path}/tests", *SETS, "seeds=2"]


def test_each_filter_is_trained_with_every_seed_and_evaluated_on_every_set(given, tmp_path):
    more = [f"scorer={tmp_path}/scorer.pt", f"trusted={tmp_path}/trusted"]
    workflow = load("filter_ablation").build([*given, *more])
    stages = {stage.name: stage for stage in workflow}
    filters = ("none", "random", "basic", "dedup", "balance", "clip_score", "semdedup", "dfn")
    compared = stages["compare"].config.variants
    assert tuple(compared) == filters and all(len(inputs) == 2 * 2 for inputs in compared.values())
    configs = [stages[f"train_{name}_{seed}"].config.identity() for name in filters for seed in range(2)]
    assert Counter(str(config) for config in configs) == {str(config): len(filters) for config in configs}
    assert len({stages[f"train_{name}_0"].digest for name in filters}) == len(filters)
    digests = [stage.digest for stage in workflow]
    assert len(set(digests)) == len(digests)  # nothing is done twice under two names


def test_without_a_model_to_score_there_are_five(given):
    compared = {stage.name: stage for stage in load("filter_ablation").build(given)}["compare"].config.variants
    assert tuple(compared) == ("none", "random", "basic", "dedup", "balance")
