"""Drift sees what a stage loads: the oracles are each stage's own run, and grimp's graph of imports."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import grimp
import pytest

from evaluation import compare, evaluate, suite
from evaluation.tasks import Task
from infra.config import Config
from pipelines import adopt, urls
from pipelines.curate import decontaminate, embed, entries, reshard, score, semdedup, subset, textdedup
from training import train
from training.objectives.config import ObjectiveConfig
from workflows.cli.fields import STAGES
from workflows.demo import site, testset
from workflows.recipe import load
from workflows.run.drift import PACKAGES, source_digests
from workflows.stage import Stage, Workflow

pytestmark = pytest.mark.timeout(600)  # some thirty seconds, but every stage is run

REPOSITORY = Path(find_spec("infra").origin).parents[1]
CHILD = Path(__file__).with_name("one_stage.py")

# A module of each stage that only its workers load, or only its innermost function: the oracle must have got there.
DEEP = {
    "crawl": "pipelines.html.page",
    "extract": "pipelines.formats.warc",
    "download": "pipelines.images.resize",
    "filter": "pipelines.curate.filter.judge",
    "dedup": "pipelines.curate.dedup.signatures",
    "entries": "pipelines.curate.entries.words",
    "balance": "pipelines.curate.balance.sampling",
    "shard": "pipelines.curate.shard.write",
    "subset": "pipelines.curate.subset.work",
    "reshard": "pipelines.curate.reshard.sources",
    "train": "training.objectives.siglip.objective",
    "embed": "evaluation.embed.work",
    "embed_pairs": "pipelines.curate.embed.work",
    "score": "pipelines.curate.score.passes",
    "textdedup": "pipelines.curate.textdedup.minhash",
    "semdedup": "pipelines.curate.semdedup.clusters",
    "decontaminate": "pipelines.curate.decontaminate.index",
    "zeroshot": "evaluation.tasks.zeroshot",
    "retrieval": "evaluation.tasks.retrieval",
    "compositions": "evaluation.groups",
    "analogies": "evaluation.questions",
    "corrupted": "evaluation.corruptions.figure",
    "compare": "evaluation.compare.differences",
    "suite": "evaluation.suite.averages",
    "robustness": "evaluation.robustness.lines",
    "urls": "pipelines.urls.shard",
    "list": "pipelines.adopt.stage",
}

# Modules that no stage loads, by the beginning of their names, and why an edit of them changes no artifact.
OUTSIDE = {
    "evaluation.checks": "looks through test sets for the command line",
    "infra.cluster.jobs": "sends runs to a cluster",
    "infra.cluster.mailbox": "carries events from stages to the driver",
    "infra.formats.testset.holdings": "counts what a test set holds for the command line",
    "infra.run.lease": "keeps two runs from one folder",
    "infra.run.lineage": "finds the model of an evaluation that is done",
    "infra.run.root": "tells below which root models are looked for by name, which then count by content",
    "infra.run.signals": "tells which signals stop a run",
    "infra.run.transfer": "copies artifacts to another root, byte by byte",
    "infra.tracking": "shows results in MLflow",
    "pipelines.adopt.hub": "finds a model's files by its name, which then count by content",
    "pipelines.adopt.registry": "finds a model's files by its name, which then count by content",
    "training.cli": "the command line of training without a run",
    "training.command": "the command line of training without a run",
    "training.merges": "learns merges beforehand, which then count by content",
    "workflows.cli": "the command line",
    "workflows.demo": "the web site of the quickstart, which is the web to its stages",
    "workflows.profile": "reads settings, which count as those of --set",
    "workflows.recipe": "builds stages, whose configurations count",
    "workflows.recipes": "build stages, whose configurations count",
    "workflows.report": "shows results",
    "workflows.run": "starts stages",
    "workflows.stage": "names stages and their inputs",
    "workflows.submit": "sends runs to a cluster",
    "workflows.user": "imports recipes, which count themselves",
}


# Objectives that have fields without a default.
GIVEN = {"vqa": {"kind": "vqa", "answers": ("yes", "no")}}


def variants() -> dict[str, tuple]:
    """Function and configuration of each stage, by objective and by task, and of what else has variants."""
    found = {name: (import_module(module).run, import_module(module).Config) for name, module in STAGES.items()}
    configs = {f"train, {kind}": train.Config(objective=GIVEN.get(kind, kind)) for kind in ObjectiveConfig.all_members()
               if ObjectiveConfig.named(kind).__module__.startswith("training.")}  # fmt: skip
    tasks = {f"evaluate, {kind}": evaluate.Config(task={"kind": kind, "dataset": "seen"}) for kind in Task.members()
             if Task.named(kind).__module__.startswith("evaluation.")}  # fmt: skip
    return {name: (run, None, config) for name, (run, config) in found.items()} | {
        **{name: (evaluate.run, config, type(config)) for name, config in tasks.items()},
        **{name: (train.run, config, type(config)) for name, config in configs.items()},
        "testset": (testset.run, None, testset.Config),
        "adopt, regions": (adopt.run, adopt.Config(path="regions", contents="region_shards"), adopt.Config),
    }


# --- what a stage loads when it runs ----------------------------------------------------------------------------------


def carry_out(workflow: Workflow, root: Path) -> dict[str, tuple[Stage, set[str]]]:
    """Run each stage in a process of its own; the stages and the first-party modules that they loaded, by name."""
    files = {}
    for stage in workflow:
        folders = {name: str(root / source.name) for name, source in stage.inputs.items()}
        package = {
            "shards": "infra.cluster" in source_digests(stage.run, stage.config),
            "stage": pickle.dumps((stage.run, stage.config, folders)),
            "folder": str(root / stage.name),
        }
        files[stage.name] = root / f"{stage.name}.pickle"
        files[stage.name].write_bytes(pickle.dumps(package))
    command = [sys.executable, str(CHILD), *map(str, files.values())]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {stage.name: (stage, set(json.loads(Path(f"{files[stage.name]}.json").read_text()))) for stage in workflow}


def small_run(root: Path, port: int) -> Workflow:
    """The quickstart, smaller still, with an objective that is not the default; and the stages it does not have."""
    quick = load("quickstart").function(images=60, samples=128, workers=1, port=port)
    stages: dict[str, Stage] = {}
    for stage in quick:
        if stage.name == "unseen":
            continue  # as zeroshot
        config = stage.config
        if stage.name == "train":
            config = config.replace(objective={"kind": "siglip"}, batch_size=32, samples=64)
        inputs = {name: stages[source.name] for name, source in stage.inputs.items()}
        stages[stage.name] = Stage(stage.name, stage.run, config, inputs)
    both = {"images": stages["download"], "selection": stages["filter"]}
    stages["embed_pairs"] = Stage("embed_pairs", embed.run, embed.Config(), {**both, "model": stages["train"]})
    vectors = {**both, "embeddings": stages["embed_pairs"]}
    stages["score"] = Stage("score", score.run, score.Config(), vectors)
    stages["textdedup"] = Stage("textdedup", textdedup.run, textdedup.Config(), both)
    stages["semdedup"] = Stage("semdedup", semdedup.run, semdedup.Config(), vectors)
    stages["entries"] = Stage("entries", entries.run, entries.Config(), {"selection": stages["filter"]})
    stages["subset"] = Stage("subset", subset.run, subset.Config(), {"selection": stages["balance"]})
    stages["reshard"] = Stage("reshard", reshard.run, reshard.Config(), {"shards": stages["shard"]})
    leaks = {**vectors, "testsets": stages["shard"], "model": stages["train"]}
    stages["decontaminate"] = Stage("decontaminate", decontaminate.run, decontaminate.Config(), leaks)
    twice = {"scores_one": stages["zeroshot"], "scores_other": stages["zeroshot"]}
    variants = {"one": ["scores_one"], "other": ["scores_other"]}
    sets = {"sets": {"seen": {"split": "test"}}, "name": "one"}
    stages["suite"] = Stage("suite", suite.run, suite.Config(suite=sets), {"scores": stages["zeroshot"]})
    stages["compare"] = Stage("compare", compare.run, compare.Config(variants=variants), twice)
    (root / "list.csv").write_text("url,caption\nhttp://a.example/1.jpg,one\n")
    stages["list"] = Stage("list", adopt.run, adopt.Config(path=str(root / "list.csv"), contents="url_list"))
    stages["urls"] = Stage("urls", urls.run, urls.Config(), {"list": stages["list"]})
    return Workflow("small", tuple(stages.values()))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, tuple[Stage, set[str]]]:
    """Each stage of a small run, and what it loaded."""
    root = tmp_path_factory.mktemp("loaded")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with site.serve(60, port):
        return carry_out(small_run(root, port), root)


@pytest.mark.ray  # for its length: what Ray would start is done here
@pytest.mark.parametrize("name", [*DEEP, "testset"])
def test_an_edit_of_what_a_stage_loads_is_drift(loaded, name):
    stage, modules = loaded[name]
    assert DEEP.get(name, "infra") in modules
    assert modules - source_digests(stage.run, stage.config).keys() == set()


@pytest.mark.ray
def test_every_stage_is_among_those_run(loaded):
    run = {type(stage.config) for stage, _ in loaded.values()}
    assert run == {import_module(module).Config for module in STAGES.values()} | {testset.Config}


# --- what an edit shows -----------------------------------------------------------------------------------------------


def imported_by(graph: grimp.ImportGraph, start: set[str]) -> set[str]:
    """The modules ``start``, all that they import, directly or not, and the packages around them."""
    found: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name not in found and name in graph.modules:
            found.add(name)
            todo += [name.rpartition(".")[0], *graph.find_modules_directly_imported_by(name)]
    return found


DIGESTS = """
import json, pickle, sys
from pathlib import Path
from workflows.run.drift import changed_modules, source_digests

stages = pickle.loads(Path(sys.argv[1]).read_bytes())
before = {name: source_digests(*stage) for name, stage in stages.items()}
for package in sys.argv[2:]:
    for path in Path(package).rglob("*.py"):
        path.write_text(path.read_text() + "# edited\\n")
changed = {name: changed_modules(before[name], source_digests(*stage)) for name, stage in stages.items()}
print(json.dumps(changed))
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> dict[str, set[str]]:
    """Of each stage, the modules that count as changed after every product module was edited, in a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    stages = {name: (run, config) for name, (run, config, _) in variants().items()}
    (tree / "stages.pickle").write_bytes(pickle.dumps(stages))
    command = [sys.executable, "-c", DIGESTS, "stages.pickle", *PACKAGES]
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: set(modules) for name, modules in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


@pytest.mark.parametrize("name", variants())
def test_an_edit_shows_in_exactly_the_stages_that_import_the_module(changed, graph, name):
    run, config, kind = variants()[name]
    parts = {type(part) for part in config.parts()} if config is not None else {kind}
    classes = [base for part in parts for base in part.__mro__ if issubclass(base, Config)]
    by_name = {part.implementation.partition(":")[0] for part in parts if getattr(part, "implementation", "")}
    assert changed[name] == imported_by(graph, {run.__module__, *(base.__module__ for base in classes), *by_name})


def test_a_module_that_no_stage_loads_has_a_reason(changed, graph):
    outside = graph.modules - set().union(*changed.values())
    reasons = {name: [begin for begin in OUTSIDE if f"{name}.".startswith(f"{begin}.")] for name in outside}
    assert [name for name, found in reasons.items() if not found] == []
    assert set().union(*reasons.values()) == OUTSIDE.keys()
