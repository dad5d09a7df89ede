"""Training shards and holdout, read by the readers they are for: open_clip, webdataset, CLIP_benchmark."""

import gc
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from infra.formats.shards import read_samples
from pipelines.curate.shard import Config, run


def image(index: int) -> bytes:
    out = io.BytesIO()
    form = ("JPEG", "PNG", "WEBP")[index % 3]
    Image.new("RGB", (8, 8), (index * 5 % 256, index * 31 % 256, 80)).save(out, form)
    return out.getvalue()


ROWS = [(f"caption {index}, with ä\nand more", image(index)) for index in range(40)]
ROWS += [(f"other words for {index}", image(index)) for index in range(40)]


@pytest.fixture(scope="module")
def config():
    return Config(samples_per_shard=8, holdout_fraction=0.2)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",  # webdataset leaves files open
    "ignore::DeprecationWarning",
    "ignore::UserWarning",
)
def test_the_stage(ray_cluster, images_artifact, finished, config, tmp_path):
    """One run, read by every reader it is written for."""
    from pipelines.curate import filter as filtering

    images = images_artifact(ROWS, per_shard=16)
    selection = finished(filtering.run, filtering.Config(rules=()), {"images": images})
    inputs = {"images": images, "selection": selection}
    result = finished(run, config, inputs, tmp_path / "sharded")
    folder = tmp_path / "sharded/data"
    sizes = json.loads((folder / "train/sizes.json").read_text())
    facts = result.manifest.facts
    assert sum(sizes.values()) == facts["train"] == 80 - facts["holdout_captions"]
    assert set(list(sizes.values())[:-1]) == {8}
    assert facts["holdout_captions"] == 2 * facts["holdout"] > 0

    # our reader: every image byte for byte, with its caption and what is known of it
    train = [sample for name in sizes for sample in read_samples(io.BytesIO(result.read(f"data/train/{name}")))]
    originals = dict(ROWS)
    for sample in train:
        known = json.loads(sample["json"])
        (image,) = (data for form, data in sample.items() if form in ("jpg", "png", "webp"))
        assert image == originals[known["caption"]]
        assert sample["txt"].decode() == " ".join(known["caption"].split())
    assert len({sample["__key__"] for sample in train}) == len(train)

    # webdataset
    tars = [str(folder / "train" / name) for name in sizes]
    theirs = webdataset.WebDataset(tars, shardshuffle=False).decode("pilrgb").to_tuple("jpg;png;webp", "txt")
    assert sorted(text for _, text in theirs) == sorted(sample["txt"].decode() for sample in train)

    # open_clip's own training loader: size from sizes.json, every sample once an epoch
    assert open_clip_texts(folder, len(sizes)) == sorted(sample["txt"].decode() for sample in train)

    # CLIP_benchmark: shards by number, several captions a line each
    assert (folder / "holdout/dataset_type.txt").read_text() == "retrieval"
    count = int((folder / "holdout/test/nshards.txt").read_text())
    tars = [str(folder / f"holdout/test/{number}.tar") for number in range(count)]
    pairs = webdataset.WebDataset(tars, shardshuffle=False).decode("pilrgb").to_tuple("webp;png;jpg;jpeg", "txt")
    texts = [text.split("\n") for _, text in pairs]
    assert len(texts) == facts["holdout"]
    assert all(len(captions) == 2 for captions in texts)

    gc.collect()  # here, where the files webdataset leaves open are forgiven
    again = finished(run, config, inputs)
    assert again.manifest == result.manifest


def open_clip_texts(folder, shards: int) -> list[str]:
    from open_clip_train.data import get_dataset_size, get_wds_dataset

    pattern = f"{folder}/train/{{00000..{shards - 1:05d}}}.tar"
    samples, found = get_dataset_size(pattern)
    assert found == shards
    args = SimpleNamespace(
        train_data=pattern,
        train_num_samples=None,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=1,
        workers=0,
        world_size=1,
    )
    info = get_wds_dataset(args, lambda image: torch.from_numpy(np.array(image)), is_train=True, tokenizer=as_bytes)
    assert info.dataloader.num_samples == samples
    return sorted(bytes(row.tolist()).decode().strip() for _, batch in info.dataloader for row in batch)


def as_bytes(text: str) -> torch.Tensor:
    return torch.tensor([list(text.encode().ljust(64))])
