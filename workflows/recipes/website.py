"""website: from seed URLs, sitemaps or lists of pages to an evaluated model, on what the pages themselves say.

clipline run website --set seeds=https://example.org/ --set contact=you@example.org
clipline run website --set seeds=https://example.org/ --set sitemaps=robots --set scope=domain ...
clipline run website --set page_lists=pages.csv.gz --set max_pages=1000000 ...
clipline run website --set seeds=http://localhost:8000/ --set allow_private='["127.0.0.0/8", "::1/128"]'
"""

from typing import Any

from pipelines import adopt, crawl, download, extract
from workflows.recipes._common import adopted, http_client, to_model
from workflows.stage import Stage, Workflow


def workflow(
    seeds: list[str] | None = None,  # URLs to start from; one of these four, or several
    sitemaps: list[str] | None = None,  # URLs of sitemaps; "robots": those that the seeds' robots.txt name
    pages: list[str] | None = None,  # exactly these pages, whatever they link to
    page_lists: list[str] | None = None,  # files of such URLs, in any format that url_list reads
    contact: str = "",  # for webmasters: an email address or a page, sent with every request
    languages: list[str] | None = None,  # of captions, as ISO 639-1 codes; by default any
    min_side: int = 200,  # smallest shorter side of an image, pixels
    image_size: int = 224,  # shorter side that images are resized to, pixels
    scope: str = "host",  # links followed: host (of the starts), domain or any
    hosts: list[str] | None = None,  # instead of a scope: patterns of the hosts to stay on
    exclude: list[str] | None = None,  # regular expressions of links not to follow
    max_pages: int = 1000,
    max_pages_per_host: int | None = None,  # by default no limit but max_pages
    max_depth: int | None = None,  # links away from a start
    model: str | dict[str, Any] = "ViT-B-32",  # an open_clip name or configuration
    samples: int = 100_000,  # seen in training
    batch_size: int = 256,  # samples of a training step, over all workers
    workers: int = 2,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
    seed: int = 0,  # of the training: first weights, order and augmentation of the samples
    allow_private: list[str] | None = None,  # networks to reach although they are not public, e.g. 127.0.0.0/8
    connect_to: dict[str, str] | None = None,  # host pattern -> address[:port] to connect to instead
    web: dict[str, Any] | None = None,  # further fields of the HTTP client, for all stages: web.retries=5
) -> Workflow:
    client = http_client(web, contact=contact, allow_private=allow_private, connect_to=connect_to)
    starts = {"seeds": seeds or (), "sitemaps": sitemaps or (), "pages": pages or ()}
    reach = {"scope": scope, "allowed_hosts": hosts or (), "exclude": exclude or ()}
    budget = {"max_pages": max_pages, "max_pages_per_host": max_pages_per_host, "max_depth": max_depth}
    training: dict[str, Any] = {"model": model, "samples": samples, "batch_size": batch_size, "seed": seed}
    training |= {"workers": workers, "gpu": gpu}

    lists = adopted("page_list", page_lists or (), adopt.UrlList())
    crawled = Stage("crawl", crawl.run, crawl.Config(**starts, **reach, **budget, web=client), lists)
    opt_outs = {"agent": client.agent, "obey_opt_out": client.obey_opt_out}
    pairs = Stage("extract", extract.run, extract.Config(**opt_outs), {"pages": crawled})
    images = Stage("download", download.run, download.Config(image_size=image_size, web=client), {"pairs": pairs})
    data = (*lists.values(), crawled, pairs, images)
    return to_model("website", data, {"images": images}, min_side=min_side, languages=languages, training=training)
