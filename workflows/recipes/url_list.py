"""url_list: somebody's list of pictures, such as LAION's or DataComp's, to images, and if wanted on to a model.

clipline run url_list --set url_list=list.parquet --set contact=you@example.org
clipline run url_list --set url_list='s3://bucket/lists/*.csv.gz' --set url_col=link --set caption_col=title ...
clipline run url_list --set ... --set retry='["timeout", "connection_failed"]'    # later, and only those
clipline run url_list --set ... --set train=true
"""

from typing import Any

from evaluation.tasks import retrieval
from pipelines import download
from pipelines import urls as lists
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter import rules
from pipelines.web import Web
from training import train as training
from workflows.stage import Gate, Stage, Workflow


def workflow(
    url_list: str | list[str],  # files, folders or globs, here or at any fsspec URL
    contact: str = "",  # for webmasters: an address or a page, sent with every request
    input_format: str | None = None,  # by default told by the names of the files
    url_col: str | None = None,  # by default one of the usual names
    caption_col: str | None = None,  # likewise; "" for images without captions
    image_size: int = 256,  # pixels of an image as it is kept
    resize_mode: str = "keep_ratio",  # any of img2dataset's
    samples_per_shard: int = 1000,
    verify_hash: str | None = None,  # the list's column of sha256; a picture of another is left out
    retry: list[str] | None = None,  # reasons of failed rows to try once more, in shards of their own
    engine: str = "clipline",  # or img2dataset, which has no guard: for lists you trust
    train: bool = False,  # false: stop at the images
    languages: list[str] | None = None,  # of captions, as ISO 639-1 codes; by default any
    model: str | dict[str, Any] | None = None,  # an open_clip name or configuration
    samples: int = 100_000,  # seen in training
    batch_size: int = 256,  # samples of a training step, over all workers
    workers: int = 2,  # that train, one per GPU
    gpu: bool = False,  # train on GPUs
    connect_to: dict[str, str] | None = None,  # host pattern -> address, for a site that is not on the open web
) -> Workflow:
    web = Web(contact=contact, connect_to=connect_to or {})

    listed = lists.Config(url_list=url_list, input_format=input_format, url_col=url_col, caption_col=caption_col)
    pairs = Stage("urls", lists.run, listed)
    fetching = download.Config(
        image_size=image_size,
        resize_mode=resize_mode,
        samples_per_shard=samples_per_shard,
        verify={"column": verify_hash} if verify_hash else None,
        engine=engine,
        web=web,
    )
    images = {"images": Stage("download", download.run, fetching, {"pairs": pairs})}
    if retry:
        again = fetching.replace(retry=retry, min_success_share=0)  # most of them may well be gone for good
        images["images_retry"] = Stage("retry", download.run, again, {"images": images["images"]})
    if not train:
        return Workflow("url_list", (pairs, *images.values()))

    spoken = (rules.Language(languages=languages),) if languages else ()
    basic = (rules.ImageSide(), rules.ImageAspect(), rules.TextJunk(), rules.TextLength(), rules.TextWords(), *spoken)
    good = Stage("filter", filter.run, filter.Config(rules=basic), images)
    unique = Stage("dedup", dedup.run, dedup.Config(), {**images, "selection": good})
    even = Stage("balance", balance.run, balance.Config(), {"selection": unique})
    shards = Stage("shard", shard.run, shard.Config(holdout_fraction=0.1), {**images, "selection": even})

    learning = training.Config(
        model=model or "ViT-B-32",
        samples=samples,
        batch_size=batch_size,
        warmup=samples // 10,
        workers=workers,
        gpu=gpu,
        validation=("holdout",),
        validation_every=max(1, samples // 10),
    )
    trained = Stage("train", training.run, learning, {"shards": shards, "tests": shards})
    found = Stage("retrieval", retrieval.run, retrieval.Config(), {"model": trained, "dataset": shards})

    stages = (pairs, *images.values(), good, unique, even, shards, trained, found)
    return Workflow("url_list", stages, gate=Gate("train", "url_list", {"retrieval.image_retrieval_recall_at_5": 0.5}))
