"""Whatever a run is configured to do: two ranks with parts of a batch come to what one rank comes to with the whole."""

import json

import numpy as np
import open_clip
import pytest
import torch
from conftest import MODEL

from infra.run.context import Context
from infra.store.storage import LocalStore
from training import train
from training.data.samples import Shards
from training.distributed.world import World
from training.loop import train as run_loop

COCA = {
    **MODEL,
    "text_cfg": {**MODEL["text_cfg"], "embed_cls": True, "output_tokens": True},
    "vision_cfg": {**MODEL["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "multimodal_cfg": {"width": 16, "context_length": 8, "vocab_size": 49408, "mlp_ratio": 2, "layers": 1, "heads": 2},
    "custom_text": True,
}
ALBEF = {"objective": "albef", "albef_queue_size": 16, "albef_negatives_among": 2, "albef_fusion_layers": 1}
OPTIONS = {
    "siglip": {"objective": "siglip"},
    "vsepp": {"objective": "vsepp", "vsepp_warmup": 16},
    "albef": ALBEF,
    "momentum contrast": {**ALBEF, "albef_itm_weight": 0, "albef_mlm_weight": 0, "albef_alpha": 0},
    "coca": {"objective": "coca", "model": COCA},
    "image regularisation": {"patch_dropout": 0.5, "color_jitter": (0.3, 0.3, 0.3, 0.1), "gray_scale_prob": 0.3},
    "LiT with an average": {"lock_image": 0, "ema_half_life": 16, "schedule": "constant", "cooldown": 16},
    "checkpointed activations": {"grad_checkpointing": True, "layer_decay": 0.7, "shuffle": "window"},
    "sharded": {"parallel": "fsdp", "ema_half_life": 16},
    "bf16": {"precision": "amp_bf16"},
    "albef in bf16": {**ALBEF, "precision": "amp_bf16"},
}


def go(folder, shards, changes):
    """The history of a run."""
    settings = {
        "model": MODEL, "batch_size": 8, "samples": 32, "lr": 3e-3, "warmup": 8, "grad_clip": 1.0, "log_every": 8,
        "checkpoint_every": 64, "crop_scale": (0.5, 1.0), "loader_threads": 1,
    }  # fmt: skip
    store = LocalStore(shards)
    sources = {"shards": Shards(store, [path for path in store.paths() if path.endswith(".tar")])}
    run_loop(train.Config(**{**settings, **changes}), sources, Context(folder), World.join(torch.device("cpu")))
    return [json.loads(line) for line in (folder / "data/history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", OPTIONS)
def test_two_ranks_with_parts_come_to_what_one_comes_to(name, ranks, shards, tmp_path):
    changes = OPTIONS[name]
    coarse = changes.get("precision") == "amp_bf16"
    (one,) = ranks(1, go, tmp_path / "one", shards, changes)
    two, _ = ranks(2, go, tmp_path / "two", shards, {**changes, "accumulate": 2, "workers": 2})
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
    config = train.Config(model=MODEL, batch_size=8, weights={"few": 3, "many": 1})
    return prepare(config, sources, World(), None).sampler.numbers(np.arange(400)).tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": {"other": 1.0}}, "weights must name the sources"),
        ({"objective": "coca"}, "a model that writes captions"),
        ({"pretrained": "/nowhere"}, "no weights to start from"),
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
    from infra.errors import ConfigError

    with pytest.raises(ConfigError, match="needs a teacher"):
        train.Config(objective="distill")
