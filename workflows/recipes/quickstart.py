"""quickstart: the whole way from web pages to an evaluated CLIP model, on a web site that is part of clipline.

The site shows generated scenes (a red circle, a striped blue star) among all that is wrong with real pages, and says
what they are in English, Chinese, Japanese and Thai.
Thirty pairs of colour and shape train the model; six more are held out to test whether it composes what it learned.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from evaluation import embed, evaluate, robustness
from evaluation.corruptions import Corruptions
from evaluation.tasks import Analogies, Corrupted, ImageCaptionSelection, Retrieval, ZeroShot
from pipelines import crawl, download, extract
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter import rules
from pipelines.web import Web
from training import train
from workflows.demo import scenes, site, testset, translations, website
from workflows.stage import Gate, Stage, Workflow

MODEL = Path(site.__file__).with_name("model.json")  # a small CLIP in open_clip's form


def workflow(
    images: int = 2000,  # different good images on the site; about a fifth as many pages
    samples: int = 48_000,  # seen in training
    workers: int = 2,  # training processes
    seed: int = 0,  # of the training: first weights, order and augmentation of the samples
    host: str = "127.0.0.1",  # address of this machine where the site listens; on a cluster one that its nodes reach
    port: int = 8642,  # where the site listens
    gate: float = 0.8,  # zero-shot accuracy from which the model is registered
) -> Workflow:
    web = Web(connect_to={"*.example": f"{host}:{port}"}, host_concurrency=16, deadline_s=3, retry_s=0.1)
    model = json.loads(MODEL.read_text())
    size = model["vision_cfg"]["image_size"]

    # From pages to images. max_pages, which is never reached, makes a site of another size another crawl.
    crawl_config = crawl.Config(
        seeds=website.SEEDS, allowed_hosts=website.HOSTS, max_depth=website.MAX_DEPTH, max_pages=images, web=web,
        warc_date="2026-01-01T00:00:00Z",
    )  # fmt: skip
    pages = Stage("crawl", crawl.run, crawl_config)
    pairs = Stage("extract", extract.run, extract.Config(), {"pages": pages})
    download_config = download.Config(image_size=2 * size, min_image_size=32, max_aspect_ratio=8, web=web)
    downloaded = Stage("download", download.run, download_config, {"pairs": pairs})

    # From images to training shards.
    image_rules = (rules.ImageSide(min=64), rules.ImageAspect(max=3))
    languages = rules.Language(languages=("en", *translations.TRANSLATIONS))
    text_rules = (rules.TextJunk(), rules.TextLength(), rules.TextWords(), languages)
    filter_config = filter.Config(rules=(*image_rules, *text_rules))
    filtered = Stage("filter", filter.run, filter_config, {"images": downloaded})
    deduplicated = Stage("dedup", dedup.run, dedup.Config(), {"images": downloaded, "selection": filtered})
    words = (*scenes.SHAPES, *scenes.COLOURS, *translations.names())
    balance_config = balance.Config(metadata=words, t=images // 8)
    balanced = Stage("balance", balance.run, balance_config, {"selection": deduplicated})
    shards = Stage("shard", shard.run, shard.Config(), {"images": downloaded, "selection": balanced})

    # Train, and evaluate on test sets the site never shows.
    tests = Stage("testset", testset.run, testset.Config(image_size=size))
    trained = Stage("train", train.run, training(model, samples, workers, seed), {"shards": shards, "tests": tests})
    changes = Corruptions(kinds=("gaussian_noise", "defocus_blur", "jpeg_compression"), severities=(1, 3, 5), side=96)
    sets = ("seen", "unseen", "captions", "compositions", "analogies")
    embed_config = embed.Config(sets=sets, corruptions=changes, corrupted=("seen",))
    embedded = Stage("embed", embed.run, embed_config, {"model": trained, "dataset": tests})
    tasks = {
        "zeroshot": ZeroShot(dataset="seen"),
        "unseen": ZeroShot(dataset="unseen"),
        "retrieval": Retrieval(dataset="captions"),
        "compositions": ImageCaptionSelection(dataset="compositions"),
        "analogies": Analogies(dataset="analogies"),
        "corrupted": Corrupted(dataset="seen", corruptions=changes),
    }
    both = {"dataset": tests, "embeddings": embedded}
    scores = [Stage(name, evaluate.run, evaluate.Config(task=task), both) for name, task in tasks.items()]
    usual = robustness.Line(slope=1, intercept=0)  # as good as without corruptions
    shift = robustness.Shift(standard="seen", shifted="seen", shifted_metric="acc1_corrupted", line=usual)
    robustness_config = robustness.Config(models={"quickstart": ("scores",)}, shifts={"corrupted": shift})
    robust = Stage("robustness", robustness.run, robustness_config, {"scores": scores[-1]})

    data = (pages, pairs, downloaded, filtered, deduplicated, balanced, shards)
    stages = (*data, tests, trained, embedded, *scores, robust)
    accuracy = Gate("train", "quickstart", {"zeroshot.acc1": gate})
    return Workflow("quickstart", stages, services=(partial(site.serve, images, port, host),), gate=accuracy)


def training(model: dict[str, Any], samples: int, workers: int, seed: int = 0) -> train.Config:
    """The small CLIP's training: its two towers at rates of their own, checked on both kinds of test set."""
    return train.Config(
        model=model,
        samples=samples,
        batch_size=64,
        seed=seed,
        augment={"crop_scale": (0.6, 1.0), "crop_ratio": (1.0, 1.0)},
        optimizer={"lr": 3e-3, "text_lr": 3e-4, "weight_decay": 0.1, "grad_clip": 1.0},
        schedule={"warmup": samples // 10},
        log_every=1000,
        checkpoint={"every": 12_000},
        validation={"sets": ("seen", "captions"), "every": 12_000},
        loading={"threads": 1},
        cluster={"workers": workers},
    )
