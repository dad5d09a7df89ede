"""url_list: from a list of image URLs, such as LAION's or DataComp's, to images and optionally on to a model.

clipline run url_list --set url_list=list.parquet --set contact=you@example.org
clipline run url_list --set url_list='s3://bucket/lists/*.csv.gz' --set url_col=link --set caption_col=title ...
clipline run url_list --set ... --set retry='["timeout", "connection_failed"]'    # later, and only those
clipline run url_list --set ... --set train=true
"""

from typing import Any

from pipelines import adopt, download, urls
from workflows.recipes._common import adopted, http_client, to_model
from workflows.stage import Stage, Workflow


def workflow(
    url_list: str | list[str],  # files, folders or globs, local or at any fsspec URL
    contact: str = "",  # for webmasters: an email address or a page, sent with every request
    languages: list[str] | None = None,  # of captions to train on, as ISO 639-1 codes; by default any
    min_side: int = 200,  # smallest shorter side of an image to train on, pixels
    image_size: int = 256,  # side that images are resized to, pixels
    resize_mode: str = "keep_ratio",  # any of img2dataset's
    input_format: str | None = None,  # by default from the file names
    url_col: str | None = None,  # by default one of the usual names
    caption_col: str | None = None,  # likewise; "" for images without captions
    samples_per_shard: int = 1000,
    verify_hash: str | None = None,  # the list's column of sha256; an image with another hash is dropped
    retry: list[str] | None = None,  # reasons of failed rows to try once more, in shards of their own
    engine: str = "clipline",  # or img2dataset, which has no guard: for lists you trust
    train: bool = False,  # false: stop at the images
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
    layout = {"image_size": image_size, "resize_mode": resize_mode, "samples_per_shard": samples_per_shard}
    verify = {"column": verify_hash} if verify_hash else None
    training: dict[str, Any] = {"model": model, "samples": samples, "batch_size": batch_size, "seed": seed}
    training |= {"workers": workers, "gpu": gpu}

    paths = [url_list] if isinstance(url_list, str) else url_list
    lists = adopted("list", paths, adopt.UrlList(format=input_format))
    list_config = urls.Config(input_format=input_format, url_col=url_col, caption_col=caption_col)
    pairs = Stage("urls", urls.run, list_config, lists)
    download_config = download.Config(**layout, verify=verify, engine=engine, web=client)
    images = {"images": Stage("download", download.run, download_config, {"pairs": pairs})}
    if retry:
        retry_config = download_config.replace(retry=retry, min_success_share=0)  # most may be gone for good
        images["images_retry"] = Stage("retry", download.run, retry_config, {"images": images["images"]})
    data = (*lists.values(), pairs, *images.values())
    if not train:
        return Workflow("url_list", data)
    return to_model("url_list", data, images, min_side=min_side, languages=languages, training=training)
