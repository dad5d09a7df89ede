"""The fusion encoder that a run leaves beside its towers scores pairs as it did in training."""

import json

import pytest
import torch
from nesting import nested
from small_data import MODEL
from test_albef_parts import candidates

from infra.errors import ConfigError
from infra.run.context import Context
from infra.store import LocalStore
from training import loop
from training.config import Config
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.objectives import albef

pytestmark = pytest.mark.long  # trains


def go(folder, shards, changes):
    """Train; on rank 0 the scores of the model as it is at the end."""
    values = {
        "model__architecture": MODEL, "batch_size": 8, "samples": 32, "optimizer__lr": 3e-3, "precision": "fp32",
        "objective__kind": "albef", "objective__queue_size": 16, "objective__negatives_among": 2,
        "objective__fusion_layers": 1,
    }  # fmt: skip
    config = Config(**nested(values | changes))
    tars = Shards(LocalStore(shards), sorted(str(path.relative_to(shards)) for path in shards.rglob("*.tar")))
    trainer = loop.Trainer(config, Inputs({"shards": tars}), Context(folder), World.join(torch.device("cpu")))
    trainer.run()
    trainer.finish()
    if not config.objective.itm_weight or config.cluster.parallel == "fsdp":
        return []
    return trainer.objective.eval().matcher().match(*candidates()).tolist()


@pytest.mark.parametrize("size", [1, 2])
def test_the_loaded_model_scores_as_the_trained_one(ranks, shards, tmp_path, size):
    expected, *_ = ranks(size, go, tmp_path, shards, {"cluster__workers": size})
    for folder in (tmp_path, tmp_path / "data"):
        matcher = albef.load(folder)
        assert matcher.match(*candidates()).tolist() == pytest.approx(expected, abs=1e-6)
    assert len({round(score, 5) for score in expected}) > 3
    assert {file["path"] for file in json.loads((tmp_path / "ledger/model.json").read_text())["files"]} >= {
        "data/fusion/config.json",
        "data/fusion/model.safetensors",
    }


def test_a_sharded_run_writes_it_whole(ranks, shards, tmp_path):
    whole, *_ = ranks(1, go, tmp_path / "one", shards, {})
    ranks(2, go, tmp_path / "two", shards, {"cluster__workers": 2, "cluster__parallel": "fsdp"})
    assert albef.load(tmp_path / "two").match(*candidates()).tolist() == pytest.approx(whole, abs=1e-3)


def test_without_matching_there_is_nothing_to_load(ranks, shards, tmp_path):
    ranks(1, go, tmp_path, shards, {"objective__itm_weight": 0})
    with pytest.raises(ConfigError, match="trained without matching"):
        albef.load(tmp_path)
    with pytest.raises(ConfigError, match="no fusion encoder"):
        albef.load(shards)
