"""bf16 weights with fp32 masters against AdamW in fp32, and what autocast leaves alone."""

import copy
import io

import pytest
import torch
from conftest import MODEL

from training.distributed.world import World
from training.model.blocks import encode_image
from training.model.build import build
from training.model.precision import AdamW, Precision, exact
from training.model.text import encode_text

OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.2, "fused": True}


def gradients(weights, step):
    generator = torch.Generator().manual_seed(step)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)


def some_weights():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(5, 7).bfloat16()), torch.nn.Parameter(torch.randn(3))]


def test_masters_move_as_fp32_weights_would_and_weights_are_their_rounding():
    weights = some_weights()
    twins = [torch.nn.Parameter(weight.detach().float()) for weight in weights]
    ours, theirs = AdamW(weights, **OPTIONS), torch.optim.AdamW(twins, **OPTIONS)
    for step in range(20):
        gradients(weights, step)
        for weight, twin in zip(weights, twins, strict=True):
            twin.grad = weight.grad.float()
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 1e-4 * (step + 1)
            optimizer.step()
        assert torch.equal(ours.state[weights[0]]["master"], twins[0])
        assert torch.equal(weights[0], twins[0].bfloat16())
        assert torch.equal(weights[1], twins[1])
    assert [weight.dtype for weight in weights] == [torch.bfloat16, torch.float32]


def test_steps_too_small_for_bf16_are_not_lost():
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = AdamW([weight], **{**OPTIONS, "lr": 1e-5, "weight_decay": 0.0})
    for _ in range(1000):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.item() == pytest.approx(0.99, abs=0.003)


def test_with_fp32_weights_it_is_torchs():
    weights = [torch.nn.Parameter(weight.detach().float()) for weight in some_weights()]
    twins = copy.deepcopy(weights)
    ours, theirs = AdamW(weights, **OPTIONS), torch.optim.AdamW(twins, **OPTIONS)
    for step in range(3):
        for these, optimizer in ((weights, ours), (twins, theirs)):
            gradients(these, step)
            optimizer.step()
    for weight, twin in zip(weights, twins, strict=True):
        assert torch.equal(weight, twin)
    assert set(ours.state[weights[0]]) == set(theirs.state[twins[0]])


def test_it_continues_from_its_state_to_the_bit():
    def run(weights, optimizer, steps):
        for step in steps:
            gradients(weights, step)
            optimizer.step()

    weights = some_weights()
    whole = AdamW(weights, **OPTIONS)
    run(weights, whole, range(4))
    file = io.BytesIO()
    torch.save([whole.state_dict(), [weight.detach() for weight in weights]], file)
    file.seek(0)
    state, values = torch.load(file, weights_only=True)
    again = [torch.nn.Parameter(value.clone()) for value in values]
    other = AdamW(again, **OPTIONS)
    other.load_state_dict(state)
    run(weights, whole, range(4, 8))
    run(again, other, range(4, 8))
    for weight, twin in zip(weights, again, strict=True):
        assert torch.equal(weight, twin)
    for name, value in whole.state[weights[0]].items():
        assert torch.equal(other.state[again[0]][name], value), name


def test_gains_and_temperature_stay_fp32_and_features_are_close():
    precision = Precision("bf16")
    towers = build(MODEL, 0, World(), precision=precision.weights)
    model, plain = towers.model, build(MODEL, 0, World()).model
    kept = {name for name, weight in model.named_parameters() if weight.dtype == torch.float32}
    assert kept >= {"logit_scale", "ln_final.weight", "visual.ln_pre.bias", "token_embedding.weight"}
    assert "visual.transformer.resblocks.0.mlp.c_fc.weight" not in kept
    images = towers.normalise(torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8))
    texts = torch.tensor([[49406, 320, 49407, 0, 0, 0, 0, 0]] * 4)
    for encode, inputs in ((encode_image, images), (encode_text, texts)):
        found, expected = encode(model, inputs), encode(plain, inputs)
        assert found.dtype == torch.bfloat16
        assert (found - expected).norm() < 0.05 * expected.norm()
        found.float().square().sum().backward()
    optimizer = AdamW(model.parameters(), **OPTIONS)
    optimizer.step()
    whole = dict(exact(model, optimizer))
    assert list(whole) == list(model.state_dict())
    for name, weight in model.state_dict().items():
        assert whole[name].dtype == torch.float32, name
        assert torch.equal(whole[name].to(weight.dtype), weight), name


def test_autocast_is_for_amp_only():
    device = torch.device("cpu")
    a = torch.ones(2, 2)
    for name, expected in (("fp32", torch.float32), ("amp_bf16", torch.bfloat16), ("bf16", torch.float32)):
        with Precision(name).autocast(device):
            assert (a @ a).dtype == expected


def test_fsdp_has_masters_of_its_own():
    assert [Precision(name).weights for name in ("fp32", "amp_bf16", "bf16")] == ["fp32", "fp32", "bf16"]
    assert Precision("bf16", sharded=True).weights == "fp32"


def test_tf32_is_a_switch():
    try:
        Precision("fp32", tf32=True).apply()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        Precision("fp32").apply()
    assert torch.get_float32_matmul_precision() == "highest"
