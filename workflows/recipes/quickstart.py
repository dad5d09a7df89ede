"""quickstart: the whole way from web pages to an evaluated CLIP model, on a web site that is part of clipline.

The site shows generated scenes (a red circle, a striped blue star) among all that is wrong with real pages.
Thirty pairs of colour and shape train the model; six more are kept to see whether it composes what it learned.
"""

import json
from functools import partial
from pathlib import Path

from evaluation.tasks import retrieval, zeroshot
from pipelines import crawl, download, extract
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter import rules
from pipelines.web import Web
from training import train
from workflows.demo import plan, scenes, site, testset
from workflows.stage import Gate, Stage, Workflow

MODEL = Path(site.__file__).with_name("model.json")  # a small CLIP in open_clip's form


def workflow(
    pictures: int = 2000,  # different good pictures on the site; about a fifth as many pages
    samples: int = 48_000,  # seen in training
    workers: int = 2,  # that train
    port: int = 8642,  # where the site listens on this machine
    gate: float = 0.8,  # zero-shot accuracy from which the model is registered
) -> Workflow:
    web = Web(connect_to={"*.example": f"127.0.0.1:{port}"}, host_concurrency=16, deadline_s=3, retry_s=0.1)
    model = json.loads(MODEL.read_text())
    size = model["vision_cfg"]["image_size"]

    # A site of another size is another site: max_pages, which it never reaches, says so to the fingerprint.
    crawling = crawl.Config(
        seeds=plan.SEEDS, allowed_hosts=plan.HOSTS, max_depth=plan.MAX_DEPTH, max_pages=pictures, web=web,
        warc_date="2026-01-01T00:00:00Z",
    )  # fmt: skip
    pages = Stage("crawl", crawl.run, crawling)
    pairs = Stage("extract", extract.run, extract.Config(), {"pages": pages})
    fetching = download.Config(image_size=2 * size, min_image_size=32, max_aspect_ratio=8, web=web)
    images = Stage("download", download.run, fetching, {"pairs": pairs})
    looks = (rules.ImageSide(min=64), rules.ImageAspect(max=3))
    says = (rules.TextJunk(), rules.TextLength(), rules.TextWords(), rules.Language(languages=("en",)))
    good = Stage("filter", filter.run, filter.Config(rules=(*looks, *says)), {"images": images})
    unique = Stage("dedup", dedup.run, dedup.Config(), {"images": images, "selection": good})
    words = balance.Config(metadata=(*scenes.SHAPES, *scenes.COLOURS), t=pictures // 8)
    even = Stage("balance", balance.run, words, {"selection": unique})
    shards = Stage("shard", shard.run, shard.Config(), {"images": images, "selection": even})

    tests = Stage("testset", testset.run, testset.Config(image_size=size))
    learning = train.Config(
        model=model, samples=samples, batch_size=64, lr=3e-3, text_lr=3e-4, warmup=samples // 10, weight_decay=0.1,
        grad_clip=1.0, crop_scale=(0.6, 1.0), crop_ratio=(1.0, 1.0), log_every=1000, checkpoint_every=12_000,
        validation=("seen", "captions"), validation_every=12_000, loader_threads=1, workers=workers,
    )  # fmt: skip
    trained = Stage("train", train.run, learning, {"shards": shards, "tests": tests})

    both = {"model": trained, "dataset": tests}
    seen = Stage("zeroshot", zeroshot.run, zeroshot.Config(dataset="seen"), both)
    unseen = Stage("unseen", zeroshot.run, zeroshot.Config(dataset="unseen"), both)
    captions = Stage("retrieval", retrieval.run, retrieval.Config(dataset="captions"), both)

    stages = (pages, pairs, images, good, unique, even, shards, tests, trained, seen, unseen, captions)
    good_enough = Gate("train", "quickstart", {"zeroshot.acc1": gate})
    return Workflow("quickstart", stages, services=(partial(site.serve, pictures, port),), gate=good_enough)
