"""What runs are compared by: the recipe's parameters, fields that differ from their defaults, and main metrics."""

from __future__ import annotations

import json

from infra.config import flatten
from workflows.recipe import load
from workflows.run.parameters import headline, parameters


def test_the_quickstarts_parameters_are_its_own_and_what_differs_from_defaults():
    workflow = load("quickstart").build(["images=400", "train.optimizer.lr=0.001", "crawl.web.contact=me@example.org"])
    found = parameters(workflow)
    own = ["images", "samples", "workers", "seed", "host", "port", "gate"]
    assert list(found)[: len(own)] == own
    assert (found["images"], found["gate"], found["train.lr"]) == (400, 0.8, 0.001)
    assert (found["train.text_lr"], found["zeroshot.dataset"], found["balance.t"]) == (3e-4, "seen", 50)
    assert "train.weight_decay" in found and "train.batch_size" in found
    # None at its default, none that changes no result, no list and no mapping.
    assert not {"train.betas", "train.workers", "train.accumulate", "crawl.seeds", "train.width", "train.layers"} & {
        *found
    }
    assert all(isinstance(value, (bool, int, float, str)) for value in found.values())
    assert max(map(len, found)) <= 25
    # Each value is that of the configuration.
    configs = {stage.name: flatten(stage.config.resolved()) for stage in workflow}
    for name, value in list(found.items())[len(own) :]:
        stage, _, field = name.partition(".")
        assert value in [v for path, v in configs[stage].items() if path.split(".")[-1] == field.split(".")[-1]]


def test_fields_that_are_called_alike_have_their_whole_path(tmp_path):
    recipe = tmp_path / "alike.py"
    recipe.write_text(
        "from infra.config import Config, Runtime, StageConfig\n"
        "from workflows.stage import Stage, Workflow\n"
        "class Part(Config):\n"
        "    every: int = 1\n"
        "    only: int = 1\n"
        "class Own(StageConfig):\n"
        "    one: Part = Part()\n"
        "    two: Part = Part()\n"
        "    lr: Runtime[float] = 0.1\n"
        "def workflow(token: str = 'hunter2-secret', sizes: list[int] = [1, 2]) -> Workflow:\n"
        "    config = Own(one=Part(every=3, only=2), two=Part(every=4), lr=0.2)\n"
        "    return Workflow('alike', (Stage('a', print, config), Stage('b', print, Own())))\n"
    )
    found = parameters(load(str(recipe)).build())
    # Secrets are for nobody's eyes.
    assert found == {"token": "***", "sizes": [1, 2], "a.one.every": 3, "a.two.every": 4, "a.only": 2}
    assert json.dumps(found)


def test_the_stages_that_matter_are_models_and_scores_that_nothing_adds_up(tmp_path):
    workflow = load("quickstart").build()
    scores = ["unseen", "retrieval", "compositions", "analogies", "corrupted"]
    assert headline(workflow) == ["train", *scores, "zeroshot"]  # which the gate asks for
