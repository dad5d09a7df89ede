"""Models and test sets that somebody has, in one command: the recipe ``evaluate``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import evaluation_samples as samples
import pytest
import safetensors.torch
import torch
from running import QUIET, clipline, settings

from evaluation.tasks import LinearProbe, ZeroShot
from infra.errors import ConfigError, UsageError
from workflows.recipe import load


@pytest.fixture
def given(tmp_path, monkeypatch) -> Path:
    """``model/`` in open_clip's layout, the same weights as ``epoch_1.pt``, and two test sets in ``tests/``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = samples.model_files()
    files = {path.replace("data/", "model/"): data for path, data in model.items()}
    for sets in (samples.classification_files(), samples.retrieval_files()):
        files |= {path.replace("data/", "tests/"): data for path, data in sets.items()}
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    state = safetensors.torch.load(model["data/open_clip_model.safetensors"])
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "epoch_1.pt")
    return tmp_path


def build(given: Path, *sets: str):
    return load("evaluate").build([f"tests={given / 'tests'}", *sets])


@QUIET
def test_one_command_scores_a_model_on_both_kinds_of_sets(ray_cluster, given):
    sets = {"model": given / "model", "tests": given / "tests", "classification": "seen", "captions": "holdout"}
    done = clipline(given / "root", "run", "evaluate", *settings(**sets))
    (zeroshot,) = given.glob("root/artifacts/zeroshot_seen/*/data/seen_*_zeroshot_classification.json")
    (retrieval,) = given.glob("root/artifacts/retrieval_holdout/*/data/holdout_*_zeroshot_retrieval.json")
    assert 0 < json.loads(zeroshot.read_text())["metrics"]["acc5"] <= 1
    assert 0 < json.loads(retrieval.read_text())["metrics"]["mean_recall@10"] <= 1
    assert not list(given.glob("root/artifacts/*/*/data/*.safetensors"))  # nothing was copied
    assert "acc1" in done.stdout


def test_a_suite_takes_the_sets_there_are_and_knows_the_others(given):
    sets = ("seen: {groups: [colours]}", "holdout: {task: zeroshot_retrieval}", "gone:", "odd: {task: unheard}")
    (given / "mine.yaml").write_text("\n  ".join(("sets:", *sets)))
    made = build(given, f"suite={given / 'mine.yaml'}", f"model={given / 'model'}")
    names = [stage.name for stage in made]
    assert names == [
        *("tests", "model", "embed_seen", "classification_seen", "embed_holdout", "retrieval_holdout", "suite"),
    ]
    assert set(made["suite"].inputs) == {"scores_classification_seen", "scores_retrieval_holdout"}
    assert list(made["suite"].config.suite.sets) == ["seen", "holdout", "gone", "odd"]
    with pytest.raises(UsageError, match="no set of suite datacomp is at"):
        build(given, "suite=datacomp", f"model={given / 'model'}")
    with pytest.raises(UsageError, match="beside a suite"):
        build(given, "suite=datacomp", "classification=seen", f"model={given / 'model'}")


def test_shifts_are_of_sets_that_are_scored(given):
    """By the suite's name of a set, wherever it lies; the points of other models come from the file."""
    (given / "tests/seen").rename(given / "tests/wds_v-2_test")
    shutil.copytree(given / "tests/wds_v-2_test", given / "tests/usual")
    (given / "mine.yaml").write_text("sets:\n  usual:\n  v/2:\n")
    (given / "others.csv").write_text("model,usual,v/2\na,.5,.4\nb,.6,.5\nc,.7,.6\n")
    suite = (f"suite={given / 'mine.yaml'}", f"model={given / 'model'}")
    robust = build(given, *suite, 'shifts=["usual:v/2"]', f"points={given / 'others.csv'}")["robustness"]
    (shift,) = robust.config.shifts.values()
    assert (shift.standard, shift.shifted, shift.points) == (
        "usual",
        "wds_v-2_test",
        ((0.5, 0.4), (0.6, 0.5), (0.7, 0.6)),
    )
    robust.config.check_inputs(robust.inputs)
    assert len(robust.inputs) == 2

    one = ("classification=usual", f"model={given / 'model'}")
    robust = build(given, *one, "corruptions=imagenet_c", 'shifts=["usual:corrupted"]')["robustness"]
    (shift,) = robust.config.shifts.values()
    assert (shift.shifted, shift.shifted_metric, shift.points) == ("usual", "acc1_corrupted", ())
    for wrong in (["shifts=usual:gone"], ["shifts=usual:corrupted"], ["shifts=usual"]):
        with pytest.raises(UsageError, match="is not of sets that are scored"):
            build(given, *one, *wrong)
    with pytest.raises(UsageError, match="and no shift"):
        build(given, *one, f"points={given / 'others.csv'}")


def test_models_and_sets_count_by_content(given):
    dials = ("classification=seen", f"model={given / 'model'}")
    before = {stage.name: stage.digest for stage in build(given, *dials)}
    (given / "model").rename(given / "moved")
    dials = ("classification=seen", f"model={given / 'moved'}", "gpus=1")
    assert {stage.name: stage.digest for stage in build(given, *dials)} == before
    (given / "tests/seen/classnames.txt").write_text("one\ntwo\nthree\nfour\nfive\nsix\n")
    after = {stage.name: stage.digest for stage in build(given, *dials)}
    assert after["model"] == before["model"]
    assert after["zeroshot_seen"] != before["zeroshot_seen"]


def test_a_checkpoint_file_comes_with_its_architecture(given):
    made = build(given, f"model={given / 'epoch_1.pt'}", "architecture=ViT-B-32", "captions=holdout")
    assert [stage.name for stage in made] == ["tests", "model", "embed_holdout", "retrieval_holdout"]
    assert made["embed_holdout"].config.model == "ViT-B-32"


def test_published_weights_need_no_input(given):
    made = build(given, "model=ViT-B-32", "pretrained=laion2b_s34b_b79k", "classification=seen")
    assert [stage.name for stage in made] == ["tests", "embed_seen", "zeroshot_seen"]
    config = made["embed_seen"].config
    assert (config.model, config.pretrained) == ("ViT-B-32", "laion2b_s34b_b79k")


def test_no_set_is_told_before_anything_runs(given):
    with pytest.raises(UsageError, match="no test set is named"):
        build(given, f"model={given / 'model'}")


def test_a_misspelt_architecture_is_told_before_anything_runs(given):
    with pytest.raises(ConfigError, match="no model 'ViT-B-33'") as caught:
        build(given, "model=ViT-B-33", "pretrained=openai", "classification=seen")
    assert "ViT-B-32" in caught.value.fix


def test_prompts_count_by_content_and_bring_the_model_along(given):
    (given / "cupl.json").write_text('{"red circle": ["round and red"]}')
    dials = ("classification=seen", "captions=holdout", f"model={given / 'model'}")
    plain = build(given, *dials)
    assert "model" not in plain["zeroshot_seen"].inputs
    made = build(given, *dials, f"prompts={given / 'cupl.json'}")
    assert set(made["zeroshot_seen"].inputs) == {"dataset", "embeddings", "model", "prompts"}
    assert set(made["retrieval_holdout"].inputs) == {"dataset", "embeddings"}
    assert made["embed_seen"].digest == plain["embed_seen"].digest  # no image is encoded again
    before = made["zeroshot_seen"].digest
    (given / "cupl.json").rename(given / "moved.json")
    again = build(given, *dials, f"prompts={given / 'moved.json'}")
    assert again["zeroshot_seen"].digest == before
    (given / "moved.json").write_text('{"red circle": ["red and round"]}')
    other = build(given, *dials, f"prompts={given / 'moved.json'}")
    assert other["zeroshot_seen"].digest != before
    named = build(given, *dials, "templates=open_clip:imagenet", "language=de")
    assert len(named["zeroshot_seen"].config.task.templates) == 80
    assert named["retrieval_holdout"].config.task.language == "de"


def test_any_task_is_named_with_its_set(given):
    others = '["linear_probe:seen", "zeroshot_classification:unseen"]'
    made = build(given, f"others={others}", f"model={given / 'model'}", "split=val")
    assert made["zeroshot_classification_unseen"].config.task == ZeroShot(dataset="unseen", split="val")
    assert made["linear_probe_seen"].config.task == LinearProbe(dataset="seen", split="val")
    assert made["tests"].config.contents.splits == ("val", "train")
    for wrong, words in (("no_such:seen", "linear_probe"), ("linear_probe", "KIND:SET")):
        with pytest.raises(UsageError, match="names no task with its set") as caught:
            build(given, f"others={wrong}", f"model={given / 'model'}")
        assert words in str(caught.value)


def test_a_suite_with_probes_embeds_their_training_split(given):
    for shard in (given / "tests/seen/test").iterdir():
        (given / "tests/seen/train").mkdir(exist_ok=True)
        (given / "tests/seen/train" / shard.name).write_bytes(shard.read_bytes())
    (given / "mine.yaml").write_text("sets:\n  seen: {task: linear_probe}\n")
    made = build(given, f"suite={given / 'mine.yaml'}", f"model={given / 'model'}")
    assert made["embed_seen"].config.splits == ("test", "train")
    assert made["tests"].config.contents.splits == ("test", "train")
    assert made["suite"].config.suite.sets["seen"].main == "lp_acc1"


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        ("laion/CLIP-ViT-B-32", "hf-hub:laion/CLIP-ViT-B-32"),
        ("clip@champion", "models:/clip@champion"),
        ("ViT-B-32", "pretrained=TAG"),
        ("./no/such/folder", ""),
    ],
)
def test_a_name_that_is_no_place_says_how_it_would_be_given(given, model, fix):
    with pytest.raises(UsageError, match="there is no model at") as caught:
        build(given, f"model={model}", "classification=seen")
    assert fix in caught.value.fix
