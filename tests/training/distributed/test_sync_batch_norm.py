"""Batch statistics over ranks against torch's batch norm over the whole batch."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from infra.errors import ConfigError
from training.distributed.sync_batch_norm import synchronise_batch_norms
from training.distributed.world import World


def step(_=None):
    """Output, input gradient, weight gradients and running statistics after two batches of this rank's part."""
    import torch.distributed as dist

    world = World.join(torch.device("cpu"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh()).double()
    model[1].weight.data.uniform_(0.5, 2)
    model = synchronise_batch_norms(model, world)
    for seed in range(2):
        whole = torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(seed)).double() * 3 + 1
        part = whole.chunk(world.size)[world.rank].requires_grad_()
        out = model(part)
        (out.square() * torch.linspace(-1, 1, out[0].numel()).view(out[0].shape)).sum().backward()
    weights = [weight.grad for weight in model.parameters()]
    if dist.is_initialized():
        for gradient in weights:
            dist.all_reduce(gradient)
    model.eval()
    evaluated = model(whole)
    tensors = [*weights, model[1].running_mean, model[1].running_var, evaluated]
    return (
        out.detach().numpy(),
        part.grad.numpy(),
        [tensor.detach().numpy() for tensor in tensors],
        list(model.state_dict()),
    )


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 4])
def test_equals_one_rank_with_the_whole_batch(ranks, size):
    out, grad, rest, names = step()
    results = ranks(size, step)
    assert np.concatenate([part for part, *_ in results]) == pytest.approx(out, rel=1e-9, abs=1e-12)
    assert np.concatenate([part for _, part, *_ in results]) == pytest.approx(grad, rel=1e-9, abs=1e-12)
    for *_, found, found_names in results:
        assert found_names == names
        for a, b in zip(found, rest, strict=True):
            assert a == pytest.approx(b, rel=1e-9, abs=1e-12)


def test_a_norm_it_cannot_synchronise_is_refused():
    class Fused(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match="several CPU workers"):
        synchronise_batch_norms(nn.Sequential(Fused(2)), World(size=2))


def test_one_worker_and_frozen_statistics_need_nothing():
    trainable, frozen = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(FrozenBatchNorm2d(3), nn.LayerNorm(3))
    assert synchronise_batch_norms(trainable, World()) is trainable
    assert synchronise_batch_norms(frozen, World(size=2)) is frozen


def test_gpus_get_torchs_synchronised_norms():
    world = World(size=2, device=torch.device("cuda"))  # conversion itself needs no GPU
    converted = synchronise_batch_norms(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3)), world)
    assert [type(norm) for norm in converted] == [nn.SyncBatchNorm, nn.SyncBatchNorm]
