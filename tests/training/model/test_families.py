"""Preparing a model never changes what it computes: locked, in bf16, checkpointed, compiled, sharded, exported.

Over a small model of every family of towers; what open_clip itself makes of the exported folder is the truth.
"""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.models import model_entrypoint
from tower_families import FAMILIES, OTHERS, distances, embed, inputs, made, reference, write

from training.model.blocks import compile_blocks
from training.model.precision import Precision

pytestmark = pytest.mark.long  # builds models

EVERY = [*FAMILIES, *OTHERS]
QUICK = ("EVA02-B-16", "EfficientNet", "ViT")  # to compile; some take half a minute
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {name: tmp_path_factory.mktemp("family") for name in EVERY}
    for name, folder in made.items():
        write(name, folder)
    return made


@pytest.fixture(params=EVERY)
def family(request, folders):
    name, folder = request.param, folders[request.param]
    images, texts = inputs(made(name, folder))
    expected = reference(name, folder, images, texts)
    # Features that are nearly all alike would make every test below pass.
    assert max(float(features.std(dim=0).max()) for features in expected) > 1e-3
    return name, folder, images, texts, expected


def assert_same(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_every_family_that_open_clip_names_is_here():
    def of(names):
        configs = [open_clip.get_model_config(name)["vision_cfg"] for name in names]
        return {model_entrypoint(cfg["timm_model_name"]).__module__ for cfg in configs if "timm_model_name" in cfg}

    assert of(FAMILIES) == of(open_clip.list_models())


@torch.no_grad()
def test_blocks_locks_precision_and_export(family, tmp_path):
    name, folder, images, texts, expected = family
    towers = made(name, folder)
    assert_same(embed(towers.model.eval(), images, texts), expected)

    locked = made(name, folder, lock_image=0, lock_text=0).model
    before = {key: value.clone() for key, value in locked.state_dict().items()}
    assert_same(embed(locked.eval(), images, texts), expected)
    # As training runs it, too: nothing draws, and batch norms keep their statistics.
    assert_same(embed(locked.train(), images, texts), expected)
    assert all(torch.equal(value, before[key]) for key, value in locked.state_dict().items())
    lost = set(towers.model.state_dict()) - set(before)  # counts that nothing reads, as open_clip's frozen norms
    assert not [key for key in lost if not key.endswith("num_batches_tracked")]
    save_file({key: value.contiguous() for key, value in before.items()}, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(towers.description))
    assert_same(reference(name, tmp_path, images, texts), expected)

    with Precision("amp_bf16").autocast(CPU):
        for ours, theirs in zip(embed(towers.model.eval(), images, texts), expected, strict=True):
            assert float((ours * theirs).sum(dim=1).min()) > 0.999


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in EVERY if name != "ResNet"], indirect=True)  # whole or not at all
def test_half_locked(family):
    name, folder, images, texts, expected = family
    assert_same(embed(made(name, folder, lock_image=1, lock_text=1).model.eval(), images, texts), expected)


def test_gradient_checkpointing(family):
    name, folder, images, texts, expected = family
    checkpointed, plain = (made(name, folder, grad_checkpointing=on).model.train() for on in (True, False))
    gradients = []
    for model in (checkpointed, plain):
        features = embed(model, images, texts)
        sum((one * one.detach().roll(1, 0)).sum() for one in features).backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        assert_same(embed(made(name, folder, grad_checkpointing=True).model.eval(), images, texts), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    "family",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY],
    indirect=True,
)
def test_compiled_blocks(family):
    name, folder, images, texts, expected = family
    torch._dynamo.reset()
    model = made(name, folder).model.eval()
    compile_blocks(model, "eager")
    assert_same(embed(model, images, texts), expected)


def test_sharded_over_ranks(ranks, folders):
    for found in ranks(2, distances, folders):
        assert {name: far for name, far in found.items() if far > 1e-5} == {}
