"""Whole runs with each objective: stopped and continued on other numbers of ranks, and loaded by open_clip."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from nesting import nested
from safetensors.torch import save_file
from small_data import MODEL

from infra.encoder.open_clip import load_encoder
from infra.errors import Preempted
from infra.fusion.config import FOLDER
from infra.fusion.encoder import FusionEncoder, read_fusion
from infra.run.context import Context
from infra.store import LocalStore
from training.config import Config
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.loop import train
from workflows.demo.compositions import pair
from workflows.demo.regions import detect
from workflows.demo.scenes import SHAPES

pytestmark = pytest.mark.long  # several processes

COCA = {
    **MODEL,
    "vision_cfg": {**MODEL["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**MODEL["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**MODEL["text_cfg"], "attn_pooler_heads": 2},
    "custom_text": True,
}
RUNS = {
    "infonce": {},
    "siglip": {"objective__kind": "siglip"},
    "vsepp": {"objective__kind": "vsepp", "objective__warmup": 40},
    "coca": {"objective__kind": "coca", "model__architecture": COCA},
    "distill": {"objective__kind": "distill"},
    "vilt": {"objective__kind": "vilt", "objective__negatives_among": 2, "objective__word_patch_alignment": 0.1},
    "vilbert": {
        "objective__kind": "vilbert",
        "objective__negatives_among": 2,
        "objective__layers": 1,
        "objective__most_regions": 3,
        "objective__features": 32,
        "objective__classes": 36,
    },
    "vqa": {"objective__kind": "vqa", "objective__answers": SHAPES, "objective__images": 1},
    "data2vec": {"objective__kind": "data2vec", "objective__layers": 1},
}


def run(folder, shards, regions, teacher, stop_at=None, **changes):
    """Each objective's run below ``folder``, to its end or until so many samples are seen."""
    places = {False: shards / "data/train", True: regions}
    tars = {
        reads: Shards(LocalStore(place), [path.name for path in sorted(place.glob("*.tar"))])
        for reads, place in places.items()
    }
    values = {
        "model__architecture": MODEL,
        "batch_size": 8,
        "samples": 64,
        "optimizer__lr": 3e-3,
        "schedule__warmup": 24,
        "log_every": 8,
    }
    for name, own in RUNS.items():
        seen = [0]

        def emit(event, seen=seen):
            if event.kind == "progress":
                seen[0] = event.done

        context = Context(
            folder / name, emit=emit, stopping=lambda seen=seen: stop_at is not None and seen[0] >= stop_at
        )
        config = Config(**nested({**values, **own, **changes}))
        try:
            # Answers are learnt by the model that vilbert, before it, has left.
            models = (
                {"pretrained": folder.parent / "calm/vilbert/data"} if name == "vqa" else {"teacher": Path(teacher)}
            )
            of_regions = (
                config.objective.regions({name: LocalStore(place) for name, place in models.items()}) is not None
            )
            inputs = Inputs({"shards": tars[of_regions]}, models=models)
            train(config, inputs, context, World.join(torch.device("cpu")))
        except Preempted:
            assert stop_at is not None


def test_every_objective_trains_the_same_on_any_number_of_ranks(ranks, shards, region_shards, tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    tower = open_clip.CLIP(**{**MODEL, "embed_dim": 12})
    save_file(tower.state_dict(), teacher / "open_clip_model.safetensors")
    description = {"model_cfg": {**MODEL, "embed_dim": 12}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (teacher / "open_clip_config.json").write_text(json.dumps(description))

    ranks(1, run, tmp_path / "calm", shards, region_shards, str(teacher))
    ranks(2, run_in_parts, tmp_path / "other", shards, region_shards, str(teacher))
    ranks(1, run, tmp_path / "other", shards, region_shards, str(teacher))
    for name in RUNS:
        calm, other = (history(tmp_path / kind / name) for kind in ("calm", "other"))
        assert [line["samples"] for line in calm] == list(range(8, 72, 8))
        for one, two in zip(calm, other, strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-6), (name, one)
        if name != "vsepp":  # whose loss grows harder
            assert np.mean([line["loss"] for line in calm[-2:]]) < calm[0]["loss"], name
        open_clip.create_model(f"local-dir:{tmp_path}/calm/{name}/data", require_pretrained=True)

    folder = tmp_path / "calm/vqa/data"
    encoder = load_encoder(folder)
    answering = FusionEncoder(encoder, *read_fusion(encoder.model, LocalStore(folder), FOLDER))
    images = [detect(pair("attribute", number)[0]) for number in range(3)]
    assert answering.answers == SHAPES and answering.regions == (3, 32, 0, 1)
    assert answering.answer(images, [["a red"], [], ["a blue", "a red"]]).shape == (3, len(SHAPES))


def run_in_parts(folder, shards, regions, teacher):
    run(folder, shards, regions, teacher, stop_at=32, cluster__accumulate=2)


def history(folder):
    return [json.loads(line) for line in (folder / "data/history.jsonl").read_text().splitlines()]
