"""website: from any seed addresses to an evaluated model, with nothing but what the pages say.

    clipline run website --set seeds='["https://example.org/"]' --set contact=you@example.org
"""

from evaluation import retrieval
from pipelines import balance, crawl, dedup, download, extract, filter, shard
from pipelines.fetch import Web
from training import train
from workflows.stage import Gate, Stage, Workflow


def workflow(
    seeds: list[str],
    contact: str = "",
    hosts: list[str] | None = None,  # patterns of the hosts to stay on; by default those of the seeds
    max_pages: int = 1000,
    languages: list[str] | None = None,  # of captions, ISO 639-1; by default any
    image_size: int = 224,
    model: str = "ViT-B-32",
    samples: int = 100_000,  # seen in training
    batch_size: int = 256,
    workers: int = 2,
    gpu: bool = False,
    connect_to: dict[str, str] | None = None,  # host pattern -> address, for a site that is not on the open web
) -> Workflow:
    web = Web(contact=contact, connect_to=connect_to or {})

    pages = Stage("crawl", crawl.run, crawl.Config(seeds=seeds, allowed_hosts=hosts or (), max_pages=max_pages, web=web))
    pairs = Stage("extract", extract.run, extract.Config(), {"pages": pages})
    images = Stage("download", download.run, download.Config(image_size=image_size, web=web), {"pairs": pairs})
    good = Stage("filter", filter.run, filter.Config(rules=filter.basic(languages)), {"images": images})
    unique = Stage("dedup", dedup.run, dedup.Config(), {"images": images, "selection": good})
    even = Stage("balance", balance.run, balance.Config(), {"selection": unique})
    shards = Stage("shard", shard.run, shard.Config(holdout=0.1), {"images": images, "selection": even})

    learning = train.Config(model=model, samples=samples, batch_size=batch_size, workers=workers, gpu=gpu)
    trained = Stage("train", train.run, learning, {"shards": shards})
    found = Stage("retrieval", retrieval.run, retrieval.Config(), {"model": trained, "dataset": shards})

    stages = (pages, pairs, images, good, unique, even, shards, trained, found)
    return Workflow("website", stages, gate=Gate("train", "website", {"retrieval.image_retrieval_recall_at_5": 0.5}))
