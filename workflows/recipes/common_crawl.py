"""common_crawl: from files of Common Crawl, or any WARC and WAT files, to an evaluated model.

clipline run common_crawl --set paths=crawl-data/CC-MAIN-2024-22/wat.paths.gz --set max_files=10 \\
    --set contact=you@example.org
"""

from typing import Any

from pipelines import download, extract
from workflows.recipes._common import archives, http_client, to_model
from workflows.stage import Stage, Workflow


def workflow(
    paths: list[str],  # WARC or WAT files, patterns with *, or lists of files (*.paths.gz); local ones as ./... or /...
    prefix: str = "https://data.commoncrawl.org/",  # of relative paths, given and listed; s3://commoncrawl/ inside AWS
    max_files: int | None = None,  # the first of them; one WAT file of Common Crawl holds some 200,000 pairs
    contact: str = "",  # for webmasters: an email address or a page, sent with every request
    languages: list[str] | None = None,  # of captions, as ISO 639-1 codes; by default any
    min_side: int = 200,  # smallest shorter side of an image, pixels
    image_size: int = 224,  # shorter side that images are resized to, pixels
    model: str | dict[str, Any] = "ViT-B-32",  # an open_clip name or configuration
    samples: int = 1_000_000,  # seen in training
    batch_size: int = 256,  # samples of a training step, over all workers
    workers: int = 2,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
    seed: int = 0,  # of the training: first weights, order and augmentation of the samples
    allow_private: list[str] | None = None,  # networks to reach although they are not public, e.g. 127.0.0.0/8
    connect_to: dict[str, str] | None = None,  # host pattern -> address[:port] to connect to instead
    web: dict[str, Any] | None = None,  # further fields of the HTTP client, for all stages: web.retries=5
) -> Workflow:
    client = http_client(web, contact=contact, allow_private=allow_private, connect_to=connect_to)
    training: dict[str, Any] = {"model": model, "samples": samples, "batch_size": batch_size, "seed": seed}
    training |= {"workers": workers, "gpu": gpu}

    pages = archives(paths, prefix, max_files)
    base = prefix if "://" in prefix else ""
    opt_outs = {"agent": client.agent, "obey_opt_out": client.obey_opt_out}
    pairs = Stage("extract", extract.run, extract.Config(prefix=base, max_files=max_files, **opt_outs), pages)
    images = Stage("download", download.run, download.Config(image_size=image_size, web=client), {"pairs": pairs})
    data = (*pages.values(), pairs, images)
    return to_model("common_crawl", data, {"images": images}, min_side=min_side, languages=languages, training=training)
