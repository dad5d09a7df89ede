"""The packages of the field read what a run wrote, as they are."""

from __future__ import annotations

import gc
import json
from types import SimpleNamespace

import pytest

# webdataset and open_clip leave the files they read to the collector
pytestmark = [
    pytest.mark.ray,  # the demo's results
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_webdataset_reads_the_training_shards(demo):
    import webdataset

    artifact = demo.artifact("shard")
    sizes = json.loads(artifact.read("data/train/sizes.json"))
    tars = [file for file in artifact.files("data/train/", ".tar")]
    assert {file.path.rpartition("/")[2]: file.rows for file in tars} == sizes
    dataset = webdataset.WebDataset([artifact.url(file.path) for file in tars], shardshuffle=False)
    samples = list(dataset.decode("rgb8").to_tuple("jpg;png;webp", "txt"))
    gc.collect()
    assert len(samples) == sum(sizes.values())
    assert all(image.ndim == 3 and caption for image, caption in samples)


def test_open_clips_own_loader_reads_them(demo):
    import numpy
    import torch
    from open_clip_train.data import get_dataset_size, get_wds_dataset

    artifact = demo.artifact("shard")
    size = json.loads(artifact.read("data/train/sizes.json"))
    tars = sorted(size)
    pattern = artifact.url(f"data/train/{{{tars[0][:-4]}..{tars[-1][:-4]}}}.tar")
    assert get_dataset_size(pattern) == (sum(size.values()), len(size))
    args = SimpleNamespace(
        train_data=pattern, train_num_samples=None, train_data_upsampling_factors=None, dataset_resampled=False,
        seed=0, batch_size=1, workers=0, world_size=1,
    )  # fmt: skip
    pixels, ids = (lambda image: torch.from_numpy(numpy.array(image))), (lambda text: torch.tensor([[len(text)]]))
    loader = get_wds_dataset(args, pixels, is_train=True, tokenizer=ids).dataloader
    seen = [int(lengths) for _, lengths in loader]
    assert len(seen) == sum(size.values())
    assert min(seen) > 5
    gc.collect()


def test_img2datasets_incremental_mode_takes_the_download_for_finished(demo):
    """It lists ``{shard}_stats.json`` to learn which shards it need not do again."""
    from pathlib import Path

    artifact = demo.artifact("download")
    folder = Path(artifact.url("data"))
    done = {int(path.name.split("_")[0]) for path in folder.glob("*.json")}  # as img2dataset's main.py does it
    assert done == {int(Path(file.path).stem) for file in artifact.files("data/", ".tar")}


def test_open_clip_loads_the_checkpoint_with_the_same_embeddings(demo):
    import open_clip
    import torch

    from infra.encoder.open_clip import load_encoder

    artifact = demo.artifact("train")
    state = torch.load(artifact.url("data/checkpoint.pt"), map_location="cpu", weights_only=True)
    assert {"epoch", "name", "state_dict", "optimizer"} <= set(state)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{artifact.url('data')}")
    model.eval()
    text = ["a red circle", "a blue square on a grey ground"]
    encoder = load_encoder(artifact)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{artifact.url('data')}")
    with torch.no_grad():
        expected = model.encode_text(tokenizer(text), normalize=True)
        model.load_state_dict(state["state_dict"])
        reloaded = model.encode_text(tokenizer(text), normalize=True)
    torch.testing.assert_close(torch.from_numpy(encoder.encode_texts(text)), expected)
    torch.testing.assert_close(reloaded, expected)
