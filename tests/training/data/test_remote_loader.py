"""Batches made by Ray actors: the local loader's, byte for byte, whoever dies."""

import numpy as np
import pytest

from infra.errors import DataError
from infra.store import LocalStore
from training.config import Config
from training.data.loader import Loader
from training.data.sampler import Plan
from training.data.samples import Samples, Shards
from training.data.tokens import Tokenizer
from training.distributed.world import World

CONFIG = Config(
    batch_size=80,
    seed=3,
    augment={"crop_scale": (0.5, 1.0), "flip_prob": 0.5, "color_jitter": (0.3, 0.3, 0.3, 0.1)},
    loading={"threads": 2, "remote_loaders": 2, "max_corrupt": 2},
)


def tokenize(texts):
    return np.stack([np.frombuffer(text.encode().ljust(16, b"\0")[:16], np.uint8).astype(np.int64) for text in texts])


def samples(folder, cache):
    store = LocalStore(folder)
    shards = Shards(store, [path for path in store.paths() if path.endswith(".tar")])
    return Samples(shards, World(), tokenize=Tokenizer(tokenize), min_side=16, folder=cache)


def test_actors_make_what_the_local_loader_makes(ray_cluster, make_shards, tmp_path):
    import ray

    from training.data.remote_loader import RayLoader

    class Watched(RayLoader):
        def _made_by(self, feeders, *span):
            self.feeders = feeders
            return super()._made_by(feeders, *span)

    source = samples(make_shards(tmp_path / "shards", damaged=(7, 20)), tmp_path)
    plan = Plan(source.counts, 3, shuffle="window", window=2, batch=80)
    arguments = source, CONFIG, World(rank=1, size=2), (16, 16), plan
    local, remote = Loader(*arguments), Watched(*arguments)
    pairs = zip(local.batches(80, 800), remote.batches(80, 800), strict=True)
    for number, (ours, theirs) in enumerate(pairs):
        assert all(getattr(ours, name).equal(getattr(theirs, name)) for name in ("images", "texts", "lengths"))
        if number == 3:
            ray.kill(remote.feeders[0], no_restart=False)
    assert number == 8
    assert local.corrupt == remote.corrupt == {7, 20}

    source = samples(make_shards(tmp_path / "damaged", damaged=tuple(range(6))), tmp_path)
    with pytest.raises(DataError, match="too many samples"):
        list(RayLoader(source, CONFIG, World(), (16, 16)).batches(0, 160))
