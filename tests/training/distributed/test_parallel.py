"""DDP and FSDP2 train as one rank does, and ranks that cannot take an equal share stand by."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_data import MODEL
from small_run import BATCH, Run, arrays, config
from torch import nn

from training.distributed.parallel import gathered, wrap
from training.distributed.world import World, usable_ranks
from training.model.blocks import repeated_blocks
from training.model.build import build
from training.model.precision import Precision
from training.step import backward

pytestmark = pytest.mark.long  # several processes


def curve(parallel, precision="fp32"):
    run = Run(config(cluster__parallel=parallel, precision=precision))
    for _ in range(5):
        run.step()
    kinds = {type(weight).__name__ for weight in run.objective.parameters()}
    weights = run.state()["weights"]
    dtypes = {weight.dtype for weight in weights.values() if weight is not None}
    return run.losses, run.norms, arrays(weights), kinds, [str(dtype) for dtype in dtypes]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_learn_what_one_does(ranks, kind):
    alone, norms, weights, *_ = ranks(1, curve, "ddp")[0]
    assert alone[-1] < alone[0]
    results = ranks(2, curve, kind)
    assert results[0][3] == ({"Parameter"} if kind == "ddp" else {"DTensor", "Parameter"})
    for losses, their_norms, *_ in results:
        assert losses == pytest.approx(alone, rel=1e-6)
        assert their_norms == pytest.approx(norms, rel=1e-5)
    for name, weight in weights.items():
        np.testing.assert_allclose(results[0][2][name], weight, rtol=0, atol=1e-4, err_msg=name)
    assert set(results[1][2].values()) == {None}  # only rank 0 holds whole tensors


def pieces(kind):
    """Gradients of a batch in two parts, sent once, and of the whole, sent at once."""
    found = []
    for parts in (1, 2):
        run = Run(config(cluster__parallel=kind))
        draw = torch.Generator().manual_seed(run.world.rank)
        images, texts = torch.randn(4, 3, 16, 16, generator=draw), torch.randint(1, 49408, (4, 8), generator=draw)
        for part in range(parts):
            rows = slice(part * 4 // parts, (part + 1) * 4 // parts)
            if part < parts - 1:
                with run.parallel.no_sync():
                    outputs = run.parallel(images[rows], texts[rows])
                    (outputs["image"].sum() * outputs["scale"] + outputs["text"][:, 0].sum()).backward()
            else:
                outputs = run.parallel(images[rows], texts[rows])
                (outputs["image"].sum() * outputs["scale"] + outputs["text"][:, 0].sum()).backward()
        norm = run.parallel.clip(None)
        grads = {name: weight.grad for name, weight in run.objective.named_parameters()}
        found.append((float(norm), arrays(gathered(grads, run.world))))
    return found


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_parts_of_a_batch_are_sent_once(ranks, kind):
    (whole, expected), (norm, grads) = ranks(2, pieces, kind)[0]
    assert norm == pytest.approx(whole, rel=1e-5)
    for name, grad in expected.items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-4, atol=1e-5, err_msg=name)


def evaluation(kind):
    run = Run(config(cluster__parallel=kind))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = []
    for _ in range(2):
        with torch.no_grad():
            found.append(run.parallel.call(run.objective.model.encode_image, images).norm().item())
        run.step()
    return found


def test_a_sharded_model_can_be_evaluated_between_steps(ranks):
    assert ranks(2, evaluation, "fsdp")[1] == pytest.approx(ranks(1, evaluation, "ddp")[0], rel=1e-5)


# --- bf16 -------------------------------------------------------------------------------------------------------------

DEEP = {
    **MODEL,
    "vision_cfg": {**MODEL["vision_cfg"], "layers": 2},
    "text_cfg": {**MODEL["text_cfg"], "vocab_size": 100, "layers": 2},
    "init_logit_bias": -3.0,
}
COCA = {
    "embed_dim": 16,
    "vision_cfg": {**DEEP["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**DEEP["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**DEEP["text_cfg"], "attn_pooler_heads": 2},
    "custom_text": True,
}
ALBEF = {
    "objective__fusion_layers": 2,
    "objective__negatives_among": 4,
    "objective__queue_size": 16,
    "objective__alpha_warmup": 0,
}


def gradients(name, parallel, precision, parts=1):
    """Of a batch of 64 in the objective's weights, whole, on rank 0."""
    world = World.join(torch.device("cpu"))
    model = build(COCA if name == "coca" else DEEP, 0, world).model
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():  # no gain is just 1, no bias 0
        weight.data += (0.1 * torch.randn(weight.shape, generator=draw) * (weight.ndim > 0)).to(weight.dtype)
    settings = config(
        objective__kind=name,
        batch_size=64,
        cluster__parallel=parallel,
        precision=precision,
        **(ALBEF if name == "albef" else {}),
    )
    objective = settings.objective.build(model, settings, {})
    wrapped = wrap(objective, settings, world)
    draw = torch.Generator().manual_seed(1)
    images, texts = torch.randn(64, 3, 16, 16, generator=draw), torch.randint(1, 98, (64, 8), generator=draw)
    texts[torch.arange(64), 2 + torch.arange(64) % 6] = 99
    count = 64 // world.size // parts

    def encode(part):
        start = (world.rank * parts + part) * count
        objective.position = start
        with Precision(precision).autocast(world.device):
            return wrapped(images[start : start + count], texts[start : start + count])

    backward(objective, encode, parts, wrapped.no_sync)
    wrapped.clip(None)
    found = {name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None}
    dtypes = {str(weight.dtype) for weight in objective.parameters()}
    return arrays({name: grad for name, grad in gathered(found, world).items() if grad is not None}), dtypes


@pytest.mark.parametrize(
    ("name", "precision"),
    [("siglip", "fp32"), ("siglip", "amp_bf16"), ("coca", "amp_bf16"), ("albef", "amp_bf16")],
)
def test_shards_round_no_more_than_replicas(ranks, name, precision):
    """Against the gradient in fp32 on one rank, weight by weight."""
    exact = ranks(1, gradients, name, "ddp", "fp32")[0][0]
    ddp = ranks(2, gradients, name, "ddp", precision)[0][0]
    fsdp, dtypes = ranks(2, gradients, name, "fsdp", precision, 2 if precision == "amp_bf16" else 1)[0]
    assert dtypes == {"torch.float32"}  # rounded only as they are gathered
    assert fsdp.keys() == ddp.keys() == exact.keys()
    sizes = {weight: np.linalg.norm(gradient) for weight, gradient in exact.items()}
    ours, theirs = (
        {weight: np.linalg.norm(found[weight] - gradient) / sizes[weight] for weight, gradient in exact.items()}
        for found in (fsdp, ddp)
    )
    usual = np.median(list(theirs.values()))  # a number may be lucky
    for weight, error in ours.items():
        assert error <= 3 * max(theirs[weight], usual), weight


def test_blocks_are_the_repeated_parts():
    import open_clip

    model = open_clip.model.CLIP(**config().model.architecture)
    assert [type(block).__name__ for block in repeated_blocks(model)] == ["ResidualAttentionBlock"] * 2
    resnet = open_clip.model.ModifiedResNet([2, 2, 1, 2], 16, 8, 32, 4)
    assert [type(block).__name__ for block in repeated_blocks(resnet)] == ["Bottleneck"] * 6
    assert list(repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))) == []


# --- who trains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shares", "expected"), [(1, 7, 1), (2, 8, 2), (3, 8, 2), (7, 1024, 4), (6, 9, 3), (5, 7, 1), (9, 4, 4)]
)
def test_the_most_ranks_that_divide_the_batch(size, shares, expected):
    assert usable_ranks(size, shares) == expected


def standing_by():
    device = torch.device("cpu")
    world = World.join(device, shares=BATCH)
    if not world.active:
        return None
    assert dist.get_world_size() == world.size == 2
    assert World.join(device, shares=BATCH).size == 2  # nothing more to do
    run = Run(config(), world)
    return [run.step() for _ in range(3)]


def test_ranks_without_a_share_stand_by(ranks):
    expected = ranks(1, curve, "ddp")[0][0][:3]
    first, second, third = ranks(3, standing_by)
    assert third is None
    assert first == second == pytest.approx(expected, rel=1e-6)


def lonely():
    world = World.join(torch.device("cpu"), shares=7)
    return world.active, world.size, dist.is_initialized()


def test_one_may_be_left(ranks):
    (active, size, grouped), (other, *_) = ranks(2, lonely)
    assert (active, size, grouped, other) == (True, 1, False, False)


def said():
    world = World.join(torch.device("cpu"))
    return world.broadcast(world.rank + 5), world.gather(world.rank)


def test_small_talk(ranks):
    assert ranks(2, said) == [(5, [0, 1])] * 2
    assert wrap(nn.Linear(2, 2), config(), World()).no_sync() is not None
