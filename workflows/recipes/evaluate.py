"""evaluate: any open_clip model on any test sets, those of a suite or those you name.

clipline run evaluate --set model=/models/mine --set tests=/data/eval --set suite=datacomp
clipline run evaluate --set model=/models/mine --set tests=/data/eval --set suite=mine.yaml
clipline run evaluate --set model=/models/mine --set tests=/data/eval --set classification=imagenet1k
clipline run evaluate --set model=/models/epoch_32.pt --set architecture=ViT-B-32 --set tests=s3://bucket/eval ...
clipline run evaluate --set model=/models/mine --set tests=/data/eval --set classification=pets --set prompts=cupl.json
clipline run evaluate --set model=models:/my-clip@champion --set tests=/data/eval --set suite=datacomp
clipline run evaluate --set model=hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K --set tests=/data/eval ...
clipline run evaluate --set model=ViT-B-32 --set pretrained=laion2b_s34b_b79k --set captions=flickr30k ...
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import evaluate, robustness
from evaluation import suite as suites
from evaluation.corruptions import Corruptions
from evaluation.tasks import Corrupted, Retrieval, Task, ZeroShot
from infra.errors import UsageError
from pipelines import adopt
from pipelines.adopt.published import PUBLISHED
from workflows.recipes._common import scored, with_inputs
from workflows.stage import Stage, Workflow


def workflow(
    model: str,  # a folder of open_clip's, a checkpoint, models:/name@alias, hf-hub:org/name; with pretrained a name
    tests: str,  # folder of test sets, a folder each: WebDataset, Parquet, Arrow, image folders, captions as JSON
    suite: str | None = None,  # datacomp, vtab_plus, or a YAML file: sets, their tasks, main metrics and averages
    classification: list[str] | None = None,  # the sets with classes, by name
    captions: list[str] | None = None,  # the sets with captions
    others: list[str] | None = None,  # any other task with its set, word_similarity:simlex; clipline tasks lists kinds
    corruptions: list[str] | None = None,  # kinds, as fog, or imagenet_c: those with classes are scored under them, too
    shifts: list[str] | None = None,  # of sets, imagenet1k:imagenetv2, or pets:corrupted: effective robustness
    points: str | None = None,  # CSV or JSON of other models' accuracies, a column for each set: the line of shifts
    architecture: str | None = None,  # open_clip's name of a checkpoint file's model
    pretrained: str | None = None,  # tag of weights that open_clip downloads
    split: str = "test",  # of the sets that are named; a suite has its own
    templates: str | list[str] | None = None,  # prompts with {c} for the class, or open_clip:imagenet; none: the sets'
    classnames: str | list[str] | None = None,  # a name for each class, or open_clip:imagenet; none: the sets'
    prompts: str | None = None,  # file of prompts, also of each class's own; a folder of such files by language
    language: str = "en",  # of the texts
    long_captions: str = "cut",  # beyond the model's context: cut, average_windows or average_sentences
    batch_size: int = 64,  # images or texts encoded at once
    seed: int = 0,  # of the resampling that gives the intervals
    gpus: float = 0,  # for each test set; 0.5: two share one
) -> Workflow:
    if corruptions and not classification:
        raise UsageError("corruptions are for sets with classes, by name", fix="--set classification=NAME")
    tasks: dict[str, Task] = {f"zeroshot_{name}": ZeroShot(dataset=name, split=split) for name in classification or ()}
    tasks |= _corrupted(classification or (), corruptions or (), split)
    tasks |= {f"retrieval_{name}": Retrieval(dataset=name, split=split) for name in captions or ()}
    tasks |= _by_kind(others or (), split)
    if bool(tasks) == bool(suite):
        raise UsageError(
            "no test set is named" if suite is None else "test sets are named beside a suite",
            fix="--set suite=NAME, or --set classification=NAME, --set captions=NAME",
        )
    chosen = None if suite is None else suites.load_suite(suite)
    if chosen is not None:
        tasks = _of_suite(chosen, tests)
    texts = {"templates": templates, "classnames": classnames}
    tasks = {name: _with_texts(task, language, texts) for name, task in tasks.items()}

    # Model and test sets stay where they are; both are identified by their content.
    wanted = tuple(dict.fromkeys(task.dataset for task in tasks.values()))
    splits = tuple(dict.fromkeys(split for task in tasks.values() for split in task.splits()))
    testsets = Stage("tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets(sets=wanted, splits=splits)))
    given = {"dataset": testsets}
    if pretrained is None:
        _check_place(model)
        given["model"] = Stage("model", adopt.run, adopt.Config(path=model, contents=adopt.Model()))
    else:
        architecture = model
    if prompts is not None:
        given["prompts"] = Stage("prompts", adopt.run, adopt.Config(path=prompts, contents=adopt.Prompts()))

    options: dict[str, Any] = {
        "model": architecture,
        "pretrained": pretrained,
        "long_captions": long_captions,
        "batch_size": batch_size,
        "gpus": gpus,
        "seed": seed,
    }
    scores = scored(tasks, given, **options)
    if chosen is not None:
        inputs = {f"scores_{stage.name}": stage for stage in scores}
        scores.append(Stage("suite", suites.run, suites.Config(suite=chosen), inputs))
    scores += _robust(scores, shifts or (), points, chosen)
    return Workflow("evaluate", with_inputs(*given.values(), *scores))


def _check_place(model: str) -> None:
    """Raise UsageError for what is no file or folder here but a name, saying how it would be given."""
    if "://" in model or model.startswith(tuple(PUBLISHED)) or Path(model).expanduser().exists():
        return
    fixes = {
        r"[\w.-]+/[\w.-]+": f"--set model=hf-hub:{model} if it is a repository of a hub",
        r"[\w.-]+@[\w.-]+": f"--set model=models:/{model} if it is of an MLflow registry",
        r"[\w.-]+": f"--set pretrained=TAG if it is open_clip's name, --set model=models:/{model}@ALIAS of a registry",
    }
    raise UsageError(
        f"there is no model at {model}",
        expected="a folder in open_clip's layout, a checkpoint file, models:/name@alias or hf-hub:org/name",
        found="no such file or folder",
        fix=next((fix for form, fix in fixes.items() if re.fullmatch(form, model)), ""),
    )


def _with_texts(task: Task, language: str, texts: Mapping[str, str | list[str] | None]) -> Task:
    """``task`` in that language, and with these texts of its own if it asks for classes by texts."""
    fields = {name: value for name, value in texts.items() if value is not None and name in type(task).model_fields}
    return task.replace(language=language, **fields)


def _by_kind(given: Sequence[str], split: str) -> dict[str, Task]:
    """The tasks that are named ``KIND:SET``, a user's own among them. Raises UsageError for what names none."""
    tasks, known = {}, Task.all_members()
    for one in given:
        kind, _, name = one.partition(":")
        if not name or kind not in known:
            raise UsageError(
                f"{one!r} names no task with its set",
                expected=f"KIND:SET, where KIND is one of {', '.join(sorted(known))}" if name else "KIND:SET",
                fix="--set others=word_similarity:simlex, for example",
            )
        tasks[f"{kind}_{name}"] = evaluate.Config(task={"kind": kind, "dataset": name, "split": split}).task
    return tasks


def _corrupted(sets: Sequence[str], kinds: Sequence[str], split: str) -> dict[str, Task]:
    """A task for each set, under the corruptions of these kinds; none if there are none."""
    if not kinds:
        return {}
    changes = Corruptions() if list(kinds) == ["imagenet_c"] else Corruptions(kinds=kinds)
    return {f"corrupted_{name}": Corrupted(dataset=name, split=split, corruptions=changes) for name in sets}


def _robust(
    stages: Sequence[Stage], shifts: Sequence[str], points: str | None, suite: suites.Suite | None
) -> list[Stage]:
    """The stage of effective robustness under ``shifts``; none if there are none. Raises UsageError for other sets."""
    scores = [(stage, stage.config.task) for stage in stages if isinstance(stage.config, evaluate.Config)]
    # A set of a suite may lie in a folder of another name.
    named = {folder: name for name in suite.sets for folder in suite.folders(name)} if suite else {}
    known = {named.get(task.dataset, task.dataset): task.dataset for _, task in scores if isinstance(task, ZeroShot)}
    known_corrupted = {task.dataset for _, task in scores if isinstance(task, Corrupted)}
    found, wanted = {}, set()
    for shift in shifts:
        standard, _, shifted = shift.partition(":")
        corrupted = shifted == "corrupted"
        if standard not in known or (standard not in known_corrupted if corrupted else shifted not in known):
            fix = f"--set corruptions=imagenet_c --set classification={standard}" if corrupted else ""
            raise UsageError(f"shift {shift!r} is not of sets that are scored", found=", ".join(sorted(known)), fix=fix)
        found[re.sub(r"[:/]", "_", shift)] = robustness.Shift(
            standard=known[standard],
            shifted=known[standard if corrupted else shifted],
            shifted_metric="acc1_corrupted" if corrupted else None,
            points=robustness.read_points(points, standard, shifted) if points else (),
        )
        wanted |= {known[standard], known[standard if corrupted else shifted]}
    if points and not shifts:
        raise UsageError("points of other models are given, and no shift", fix="--set shifts=STANDARD:SHIFTED")
    inputs = {
        f"scores_{stage.name}": stage
        for stage, task in scores
        if task.dataset in wanted and isinstance(task, ZeroShot | Corrupted)
    }
    config = robustness.Config(models={"model": tuple(inputs)}, shifts=found) if found else None
    return [Stage("robustness", robustness.run, config, inputs)] if config else []


def _of_suite(suite: suites.Suite, tests: str) -> dict[str, Task]:
    """A task for each set of the suite that is in ``tests`` and has one. Raises UsageError if none is."""
    there = adopt.test_sets(tests, {entry.split for entry in suite.sets.values()})
    located, known = suite.located(there), Task.all_members()
    tasks: dict[str, Task] = {}
    for name, entry in suite.sets.items():
        if name in located and entry.task in known:
            task = {**entry.options, "kind": entry.task, "dataset": located[name], "split": entry.split}
            tasks[f"{entry.task.removeprefix('zeroshot_')}_{name}"] = evaluate.Config(task=task).task
    if not tasks:
        raise UsageError(
            f"no set of suite {suite.name} is at {tests}",
            expected=f"{', '.join(list(suite.sets)[:5])}, ...",
            found=", ".join(sorted({name for name, _ in there})[:10]) or "no test set",
        )
    return tasks
