"""Batch norms: converted on GPUs, refused on several CPU workers, left alone where they are frozen or alone."""

import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from infra.errors import ConfigError
from training.distributed.sync_batch_norm import synchronise_batch_norms
from training.distributed.world import World


def test_several_cpu_workers_are_refused():
    with pytest.raises(ConfigError, match="several CPU workers"):
        synchronise_batch_norms(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), World(size=2))


def test_one_worker_and_frozen_statistics_need_nothing():
    trainable, frozen = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(FrozenBatchNorm2d(3), nn.LayerNorm(3))
    assert synchronise_batch_norms(trainable, World()) is trainable
    assert synchronise_batch_norms(frozen, World(size=2)) is frozen


def test_gpus_get_torchs_synchronised_norms():
    world = World(size=2, device=torch.device("cuda"))  # conversion itself needs no GPU
    converted = synchronise_batch_norms(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3)), world)
    assert [type(norm) for norm in converted] == [nn.SyncBatchNorm, nn.SyncBatchNorm]
