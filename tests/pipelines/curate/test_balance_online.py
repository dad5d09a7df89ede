"""From balance without a draw over the shards to training: a sample's chance there is the row's probability here."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from infra.formats.shards import read_samples
from infra.store import LocalStore
from pipelines.curate import balance, shard
from pipelines.curate import filter as filtering
from training.data.samples import Samples, Shards
from training.data.tokens import Tokenizer
from training.distributed.world import World


def letters(texts):
    return np.stack([np.frombuffer(text.encode().ljust(64, b"\0")[:64], np.uint8).astype(np.int64) for text in texts])


def test_training_sees_a_row_with_the_probability_of_its_draw(ray_cluster, images_artifact, finished, tmp_path):
    rng = np.random.default_rng(0)
    words = ["red", "blue", "green", "rare"]
    held = [rng.random(4) < (0.9, 0.5, 0.2, 0.05) for _ in range(120)]
    captions = [
        " ".join(["a", *(word for word, is_held in zip(words, row, strict=True) if is_held), f"{n}"])
        for n, row in enumerate(held)
    ]
    pictures = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in captions]
    images = images_artifact(list(zip(captions, pictures, strict=True)), per_shard=40)
    selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})
    chances = {}
    for t in (10, 40):
        config = balance.Config(t=t, metadata=words, drop=False)
        balanced = finished(balance.run, config, {"selection": selection})
        shards = finished(shard.run, shard.Config(holdout_fraction=0), {"images": images, "selection": balanced})
        files = shards.files("data/train/", ".tar")
        known = [json.loads(one["json"]) for file in files for one in read_samples(io.BytesIO(shards.read(file.path)))]
        chances[t] = {row["uid"]: row["keep_probability"] for row in known}
        store = LocalStore(shards.store.local_path("data/train"))
        assert [row["entries"] for row in known] == [
            [word for word in sorted(words) if word in row["caption"].split()] for row in known
        ]
        options = {"tokenize": Tokenizer(letters), "min_side": 8, "folder": tmp_path / "cache"}
        for wanted in (1.0, 40 / t):  # at so many times the limit
            found = Samples(Shards(store, store.paths()[:1]), World(), balance=wanted, **options).chances
            if wanted * t == 40:
                chances[f"{t} as 40"] = dict(zip((row["uid"] for row in known), found.tolist(), strict=True))
            if wanted == 1.0:
                # Batches can be composed by the same entries.
                index = Samples(Shards(store, store.paths()[:1]), World(), concepts="entries", **options).index
                assert [len(own) for own in index.concepts(np.arange(len(known)))] == [
                    len(row["entries"]) for row in known
                ]
                assert found == pytest.approx(list(chances[t].values()), rel=1e-4)
    assert chances["10 as 40"] == pytest.approx(chances[40], rel=1e-4)
    assert min(chances[10].values()) < 0.2 and max(chances[10].values()) == 1
