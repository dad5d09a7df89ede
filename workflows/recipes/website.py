"""website: from any seed addresses, sitemaps or page lists to an evaluated model, with nothing but what the pages say.

clipline run website --set seeds=https://example.org/ --set contact=you@example.org
clipline run website --set seeds=https://example.org/ --set sitemaps=robots --set scope=domain ...
clipline run website --set page_lists=pages.csv.gz --set max_pages=1000000 ...
"""

from typing import Any

from evaluation.tasks import retrieval
from pipelines import crawl, download, extract
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter import rules
from pipelines.web import Web
from training import train
from workflows.stage import Gate, Stage, Workflow


def workflow(
    seeds: list[str] | None = None,  # one of these four, or several
    sitemaps: list[str] | None = None,  # addresses of sitemaps; "robots": those that the seeds' robots.txt name
    pages: list[str] | None = None,  # exactly these pages, whatever they link to
    page_lists: list[str] | None = None,  # files of such addresses, in any format of url_list's
    contact: str = "",  # for webmasters: an address or a page, sent with every request
    scope: str = "host",  # links followed: to the hosts started from, to their domain, or to any
    hosts: list[str] | None = None,  # instead: patterns of the hosts to stay on
    exclude: list[str] | None = None,  # regular expressions of links not to follow
    max_pages: int = 1000,
    max_pages_per_host: int | None = None,  # by default no limit but max_pages
    max_depth: int | None = None,  # links away from a start
    languages: list[str] | None = None,  # of captions, as ISO 639-1 codes; by default any
    image_size: int = 224,  # pixels of an image as it is kept
    model: str | dict[str, Any] | None = None,  # an open_clip name or configuration
    samples: int = 100_000,  # seen in training
    batch_size: int = 256,  # samples of a training step, over all workers
    workers: int = 2,  # that train, one per GPU
    gpu: bool = False,  # train on GPUs
    connect_to: dict[str, str] | None = None,  # host pattern -> address, for a site that is not on the open web
) -> Workflow:
    web = Web(contact=contact, connect_to=connect_to or {})

    starts = {"seeds": seeds or (), "sitemaps": sitemaps or (), "pages": pages or (), "page_lists": page_lists or ()}
    budget = {"max_pages": max_pages, "max_pages_per_host": max_pages_per_host, "max_depth": max_depth}
    reach = {"scope": scope, "allowed_hosts": hosts or (), "exclude": exclude or ()}
    crawled = Stage("crawl", crawl.run, crawl.Config(**starts, **reach, **budget, web=web))
    pairs = Stage("extract", extract.run, extract.Config(), {"pages": crawled})
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

    stages = (crawled, pairs, images, good, unique, even, shards, trained, found)
    return Workflow("website", stages, gate=Gate("train", "website", {"retrieval.image_retrieval_recall_at_5": 0.5}))
