"""common_crawl: from files of Common Crawl, or any WARC and WAT files, to an evaluated model.

clipline run common_crawl --set paths=crawl-data/CC-MAIN-2024-22/wat.paths.gz --set max_files=10 \\
    --set contact=you@example.org
"""

from typing import Any

from evaluation.tasks import retrieval
from pipelines import download, extract
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter import rules
from pipelines.web import Web
from training import train
from workflows.stage import Gate, Stage, Workflow


def workflow(
    paths: list[str],  # WARC or WAT files, patterns with *, or lists of files (*.paths.gz); local ones as ./... or /...
    prefix: str = "https://data.commoncrawl.org/",  # of relative paths, given and listed; s3://commoncrawl/ inside AWS
    max_files: int | None = None,  # the first of them; one WAT file of Common Crawl holds some 200,000 pairs
    contact: str = "",  # for webmasters: an address or a page, sent with every request
    languages: list[str] | None = None,  # of captions, as ISO 639-1 codes; by default any
    image_size: int = 224,  # pixels of an image as it is kept
    model: str | dict[str, Any] | None = None,  # an open_clip name or configuration
    samples: int = 1_000_000,  # seen in training
    batch_size: int = 256,  # samples of a training step, over all workers
    workers: int = 2,  # that train, one per GPU
    gpu: bool = False,  # train on GPUs
    connect_to: dict[str, str] | None = None,  # host pattern -> address, for pictures that are not on the open web
) -> Workflow:
    web = Web(contact=contact, connect_to=connect_to or {})

    pairs = Stage("extract", extract.run, extract.Config(paths=paths, prefix=prefix, max_files=max_files))
    images = Stage("download", download.run, download.Config(image_size=image_size, web=web), {"pairs": pairs})
    spoken = (rules.Language(languages=languages),) if languages else ()
    basic = (rules.ImageSide(), rules.ImageAspect(), rules.TextJunk(), rules.TextLength(), rules.TextWords(), *spoken)
    good = Stage("filter", filter.run, filter.Config(rules=basic), {"images": images})
    unique = Stage("dedup", dedup.run, dedup.Config(), {"images": images, "selection": good})
    even = Stage("balance", balance.run, balance.Config(), {"selection": unique})
    shards = Stage("shard", shard.run, shard.Config(holdout_fraction=0.1), {"images": images, "selection": even})

    learning = train.Config(
        model=model or "ViT-B-32",
        samples=samples,
        batch_size=batch_size,
        warmup=samples // 10,
        workers=workers,
        gpu=gpu,
        validation=("holdout",),
        validation_every=max(1, samples // 10),
    )
    trained = Stage("train", train.run, learning, {"shards": shards, "tests": shards})
    found = Stage("retrieval", retrieval.run, retrieval.Config(), {"model": trained, "dataset": shards})

    stages = (pairs, images, good, unique, even, shards, trained, found)
    gate = Gate("train", "common_crawl", {"retrieval.image_retrieval_recall_at_5": 0.5})
    return Workflow("common_crawl", stages, gate=gate)
