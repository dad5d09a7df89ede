"""clip: CLIP's ViT-B/32 by Radford et al., 2021 (https://arxiv.org/abs/2103.00020, section 2.5, tables 18 and 19).

clipline run workflows.recipes.papers.clip --set shards=/data/pairs --set gpu=true --set workers=256 \
    --set tests=/data/eval --set classification=imagenet1k

The paper's figures: 63.2% zero-shot on ImageNet (table 11); the largest model is better than a linear probe on a
ResNet-50 on 16 of 27 sets (figure 5). Kept: 32 epochs of 400 million pairs in batches of 32,768, AdamW at 5e-4 with
betas .9 and .98, epsilon 1e-6, decay 0.2 on matrices, 2,000 steps of warm-up and a cosine, random crops alone, a learnt
temperature from .07 bound to 100, QuickGELU. Changed: bf16 instead of fp16 with scaled losses; the pairs are yours.
"""

from typing import Any

from training import train
from workflows.recipes.papers._common import trained_on
from workflows.stage import Workflow


def workflow(
    shards: list[str],  # folders or fsspec URLs of tars with images and captions
    model: str | dict[str, Any] = "ViT-B-32-quickgelu",  # an open_clip name or configuration
    samples: int = 12_800_000_000,  # seen in training: 32 epochs of 400 million
    batch_size: int = 32_768,
    workers: int = 1,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
    seed: int = 0,
    tests: str | None = None,  # folder of test sets
    classification: list[str] | None = None,  # names of the test sets with classes
    captions: list[str] | None = None,  # names of the test sets with captions
) -> Workflow:
    config = train.Config(
        model=model,
        objective="infonce",
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        optimizer={"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.2},
        schedule={"warmup": min(2000 * batch_size, samples // 2)},
        augment={"crop_scale": (0.9, 1.0)},
        precision="amp_bf16" if gpu else "fp32",
        cluster={"workers": workers, "gpu": gpu},
    )
    return trained_on("clip", config, shards, tests=tests, classification=classification, captions=captions)
