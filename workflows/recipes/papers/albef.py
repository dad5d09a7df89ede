"""albef: ALBEF on 14 million images by Li et al., 2021 (https://arxiv.org/abs/2107.07651, section 3.5 and table 3).

clipline run workflows.recipes.papers.albef --set shards=/data/pairs --set gpu=true --set workers=8 \
    --set tests=/data/eval --set captions=flickr30k

The paper's figures, zero-shot on Flickr30k (recall at 1, 5 and 10): captions 94.1, 99.5, 99.7; images 82.8, 96.3, 98.1.
Kept: ViT-B/16 at 256 pixels, six layers of text and six that fuse, batches of 512 for 30 epochs, AdamW at 1e-4 with a
decay of .02, 1,000 steps of warm-up, a cosine down to 1e-5, queues of 65,536, momentum .995, soft targets that rise to
.4 in the first epoch, 15% of words masked. Changed: random weights instead of DeiT's and BERT's, and CLIP's tokenizer
and causal text layers with them; the fusion encoder is new layers behind the text tower; crops and mirrored images
without RandAugment's other changes; the paper re-ranks 128 candidates (task Retrieval(rerank=128)) after fine-tuning.
"""

from typing import Any

from training import train
from workflows.recipes.papers._common import trained_on
from workflows.stage import Workflow

IMAGES = 14_100_000  # of the paper's larger training set
MODEL = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 256, "patch_size": 16, "width": 768, "layers": 12},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 6},
}


def workflow(
    shards: list[str],  # folders or fsspec URLs of tars with images and captions
    model: str | dict[str, Any] = MODEL,  # an open_clip name or configuration
    samples: int = 30 * IMAGES,  # seen in training
    batch_size: int = 512,
    queue_size: int = 65_536,  # features kept as further negatives
    workers: int = 1,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
    seed: int = 0,
    tests: str | None = None,  # folder of test sets
    classification: list[str] | None = None,  # names of the test sets with classes
    captions: list[str] | None = None,  # names of the test sets with captions
) -> Workflow:
    config = train.Config(
        model=model,
        objective={
            "kind": "albef",
            "queue_size": queue_size,
            "momentum": 0.995,
            "alpha": 0.4,
            "alpha_warmup": samples // 30,
            "mask_rate": 0.15,
            "fusion_layers": 6,
            "negatives_among": min(32, max(2, batch_size // workers)),
        },
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        optimizer={"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.02},
        schedule={"warmup": min(1000 * batch_size, samples // 2), "floor": 0.1},
        augment={"crop_scale": (0.2, 1.0), "flip_prob": 0.5},
        precision="amp_bf16" if gpu else "fp32",
        cluster={"workers": workers, "gpu": gpu},
    )
    return trained_on("albef", config, shards, tests=tests, classification=classification, captions=captions)
