"""vsepp: VSE++ on COCO by Faghri et al., 2018 (https://arxiv.org/abs/1707.05612, section 4.1 and table 1).

clipline run workflows.recipes.papers.vsepp --set shards=/data/coco --set gpu=true \
    --set tests=/data/eval --set captions=coco

The paper's figures, one of five folds of 1,000 images (recall at 1, 5 and 10): captions 64.6, 90.0, 95.7; images 52.0,
84.3, 92.0. Kept: the sum of hinges against the hardest negative of a batch of 128, margin .2, 1,024 dimensions, lr 2e-4
over 30 epochs, gradients cut at a norm of 2, random crops and mirrored images. Changed: the text is read by a
transformer, where the paper has a GRU; the rate falls by a cosine, not to a tenth after 15 epochs; the image tower is a
random ResNet-152 unless the configuration asks for weights, and it is trained from the first step; AdamW.
"""

from typing import Any

from training import train
from workflows.recipes.papers._common import trained_on
from workflows.stage import Workflow

COCO = 113_287  # images of the paper's training set, with five captions each
MODEL = {
    "embed_dim": 1024,
    "vision_cfg": {"timm_model_name": "resnet152", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 6},
}


def workflow(
    shards: list[str],  # folders or fsspec URLs of tars with images and captions, one a line
    model: str | dict[str, Any] = MODEL,  # an open_clip name or configuration
    samples: int = 30 * 5 * COCO,  # seen in training: 30 epochs of all captions
    batch_size: int = 128,
    workers: int = 1,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
    seed: int = 0,
    tests: str | None = None,  # folder of test sets
    classification: list[str] | None = None,  # names of the test sets with classes
    captions: list[str] | None = None,  # names of the test sets with captions
) -> Workflow:
    config = train.Config(
        model=model,
        objective={"kind": "vsepp", "margin": 0.2},
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        data={"caption_key": "txt:lines"},
        optimizer={"lr": 2e-4, "betas": (0.9, 0.999), "weight_decay": 0.0, "grad_clip": 2.0},
        augment={"crop_scale": (0.08, 1.0), "flip_prob": 0.5},
        cluster={"workers": workers, "gpu": gpu},
    )
    return trained_on("vsepp", config, shards, tests=tests, classification=classification, captions=captions)
