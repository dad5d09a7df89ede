"""align: ALIGN by Jia et al., 2021 (https://arxiv.org/abs/2102.05918, sections 3, 4 and 5.1), noisy text.

clipline run workflows.recipes.papers.align --set images=/data/img2dataset --set gpu=true --set workers=1024 \
    --set tests=/data/eval --set captions=flickr30k

The paper's figures, zero-shot on Flickr30k (recall at 1, 5 and 10): captions 88.6, 98.7, 99.7; images 75.7, 93.8, 96.8.
Kept: images of more than 200 pixels a side and at most 3 to 1, captions of 3 to 20 words that at most 10 images have,
no image twice, 1.2 million steps of 16,384 pairs, lr 1e-3 after 10,000 steps of warm-up and linearly down to 0, a decay
of 1e-5, 640 dimensions, EfficientNet-L2 and a text tower of BERT-large's size. Changed: AdamW instead of LAMB; no
smoothed labels; the text tower is CLIP's; words that are rare in the whole set stay, and so do images with more than
1,000 captions, which no set of one page's captions has; the cooldown is the whole run after its warm-up.
"""

from typing import Any

from pipelines import adopt
from pipelines.curate import dedup, filter, shard
from pipelines.curate.filter import rules
from training import train
from workflows.recipes.papers._common import scored
from workflows.stage import Stage, Workflow

MODEL = {
    "embed_dim": 640,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_l2", "timm_pool": "avg", "timm_proj": "linear", "image_size": 289,
    },
    "text_cfg": {"context_length": 64, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
}  # fmt: skip


def workflow(
    images: str,  # folder of 00000.tar beside 00000.parquet, as img2dataset and the stage download write them
    model: str | dict[str, Any] = MODEL,  # an open_clip name or configuration
    samples: int = 1_200_000 * 16_384,  # seen in training
    batch_size: int = 16_384,
    workers: int = 1,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
    seed: int = 0,
    tests: str | None = None,  # folder of test sets
    classification: list[str] | None = None,  # names of the test sets with classes
    captions: list[str] | None = None,  # names of the test sets with captions
) -> Workflow:
    pool = {"images": Stage("images", adopt.run, adopt.Config(path=images, contents=adopt.Images()))}
    kept = (rules.ImageSide(min=201), rules.ImageAspect(max=3), rules.TextWords(min=3, max=20))
    filtered = Stage("filter", filter.run, filter.Config(rules=(*kept, rules.CaptionFrequency(max=10))), pool)
    once = Stage("dedup", dedup.run, dedup.Config(), {**pool, "selection": filtered})
    shards = Stage("shard", shard.run, shard.Config(), {**pool, "selection": once})
    warmup = min(10_000 * batch_size, samples // 2)
    config = train.Config(
        model=model,
        objective="infonce",
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        optimizer={"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 1e-5},
        schedule={
            "warmup": warmup, "shape": "constant", "cooldown": samples - warmup, "cooldown_shape": "linear",
        },
        augment={"crop_scale": (0.7, 1.0), "flip_prob": 0.5},
        precision="amp_bf16" if gpu else "fp32",
        cluster={"workers": workers, "gpu": gpu},
    )  # fmt: skip
    trained = Stage("train", train.run, config, {"shards": shards})
    return Workflow("align", scored(trained, tests, classification, captions))
