"""Whatever a run is configured to do: two ranks with parts of a batch come to what one rank comes to with the whole."""

import json

import numpy as np
import open_clip
import pytest
import torch
from nesting import nested
from small_data import MODEL

from infra.run.context import Context
from infra.store import LocalStore
from training import train
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train as run_loop

pytestmark = pytest.mark.long  # trains

COCA = {
    **MODEL,
    "text_cfg": {**MODEL["text_cfg"], "embed_cls": True, "output_tokens": True},
    "vision_cfg": {**MODEL["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "multimodal_cfg": {"width": 16, "context_length": 8, "vocab_size": 49408, "mlp_ratio": 2, "layers": 1, "heads": 2},
    "custom_text": True,
}
ALBEF = {
    "objective__kind": "albef",
    "objective__queue_size": 16,
    "objective__negatives_among": 2,
    "objective__fusion_layers": 1,
}
OPTIONS = {
    "siglip": {"objective__kind": "siglip"},
    "vsepp": {"objective__kind": "vsepp", "objective__warmup": 16},
    "albef": ALBEF,
    "momentum contrast": {**ALBEF, "objective__itm_weight": 0, "objective__mlm_weight": 0, "objective__alpha": 0},
    "coca": {"objective__kind": "coca", "model__architecture": COCA, "model__merges": ("t h", "th e</w>")},
    "image regularisation": {
        "model__patch_dropout": 0.5,
        "augment__color_jitter": (0.3, 0.3, 0.3, 0.1),
        "augment__gray_scale_prob": 0.3,
    },
    "LiT with an average": {
        "model__lock_image": 0,
        "optimizer__ema_half_life": 16,
        "schedule__shape": "constant",
        "schedule__cooldown": 16,
    },
    "checkpointed activations": {
        "cluster__grad_checkpointing": True,
        "optimizer__layer_decay": 0.7,
        "data__shuffle": "window",
    },
    "sharded": {"cluster__parallel": "fsdp", "optimizer__ema_half_life": 16},
    "bf16 by autocast": {"precision": "amp_bf16"},
    "albef in bf16": {**ALBEF, "precision": "amp_bf16"},
}


def go(folder, shards, changes):
    """The history of a run."""
    settings = {
        "model__architecture": MODEL,
        "batch_size": 8,
        "samples": 32,
        "optimizer__lr": 3e-3,
        "schedule__warmup": 8,
        "optimizer__grad_clip": 1.0,
        "log_every": 8,
        "checkpoint__every": 64,
        "augment__crop_scale": (0.5, 1.0),
        "loading__threads": 1,
    }
    store = LocalStore(shards)
    sources = Inputs({"shards": Shards(store, [path for path in store.paths() if path.endswith(".tar")])})
    config = train.Config(**nested({**settings, **changes}))
    config.check_inputs(list(sources.sources))
    run_loop(config, sources, Context(folder), World.join(torch.device("cpu")))
    return [json.loads(line) for line in (folder / "data/history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", OPTIONS)
def test_two_ranks_with_parts_come_to_what_one_comes_to(name, ranks, shards, tmp_path):
    changes = OPTIONS[name]
    coarse = changes.get("precision") == "amp_bf16"
    (one,) = ranks(1, go, tmp_path / "one", shards, changes)
    two, _ = ranks(2, go, tmp_path / "two", shards, {**changes, "cluster__accumulate": 2, "cluster__workers": 2})
    for line, other in zip(one, two, strict=True):
        assert other == pytest.approx(line, rel=5e-2 if coarse else 3e-4)
    assert len({line["loss"] for line in one}) == len(one)
    for part in [".", "ema"] if "ema_half_life" in changes else ["."]:
        folders = [tmp_path / run / "data" / part for run in ("one", "two")]
        models = [open_clip.create_model(f"local-dir:{folder}").state_dict() for folder in folders]
        for key, value in models[0].items():
            np.testing.assert_allclose(models[1][key], value, atol=2e-2 if coarse else 2e-4, err_msg=key)


def test_a_mixture_sees_its_sources_in_proportion(ranks, shards, make_shards, tmp_path):
    more = make_shards(tmp_path / "more", samples=20, shards=1)
    seen = ranks(1, numbers, shards, more)[0]
    assert sum(number >= 40 for number in seen) == len(seen) // 4


def numbers(shards, more):
    from training.loop import prepare

    stores = {"few": LocalStore(shards), "many": LocalStore(more)}
    sources = {name: Shards(store, store.paths("data/train")) for name, store in stores.items()}
    config = train.Config(model=MODEL, batch_size=8, data={"weights": {"few": 3, "many": 1}})
    return prepare(config, Inputs(sources), World()).sampler.numbers(np.arange(400)).tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__weights": {"other": 1.0}}, "weights must name the inputs"),
        ({"objective__kind": "coca"}, "a model that writes captions"),
    ],
)
def test_what_cannot_be_is_said_so(changes, said, ranks, shards, tmp_path):
    assert said in ranks(1, refused, tmp_path, shards, changes)[0]


def refused(folder, shards, changes):
    from infra.errors import ConfigError

    try:
        go(folder, shards, changes)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_teacher_has_to_be_named():
    from infra.errors import UsageError

    with pytest.raises(UsageError, match="needs an input named teacher"):
        train.Config(objective="distill").check_inputs(["shards"])
