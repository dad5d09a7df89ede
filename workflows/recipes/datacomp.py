"""datacomp: a folder of DataComp's metadata through its small track: choose, download, train, evaluate.

Whatever the metadata tell is filtered before a single image is fetched: captions, sizes, CLIP's scores. With
``neg_clip_loss`` the published vectors (the .npz files beside the metadata) choose once more among what is still there.
DataComp (Gadre et al. 2023, arXiv:2304.14108) fixes model, samples and batches of a track, so only the data differ.
Its downloader blurs faces; clipline has no blur: ``face_bboxes`` stays a column, to filter or blur by.

clipline run datacomp --set metadata=/data/commonpool_small --set contact=you@example.org --set gpu=true \\
    --set tests=/data/eval --set classification=imagenet1k
clipline run datacomp --set ... --set filter=clip_score --set share=0.2
"""

from typing import Any

from infra.errors import UsageError
from pipelines import adopt, download, urls
from pipelines.curate import filter as filtering
from pipelines.curate import score, shard
from pipelines.curate.filter import rules
from training import train
from workflows.recipes._common import evaluations, http_client, named_sets, with_inputs
from workflows.stage import Stage, Workflow

_SEEN = 12_800_000  # samples of the small track, and
_WARMUP = 500  # steps


def workflow(
    metadata: str,  # folder of DataComp's *.parquet, with *.npz beside them for neg_clip_loss; here or at an fsspec URL
    contact: str = "",  # for webmasters: an email address or a page, sent with every request
    filter: str = "basic_clip_score",  # or none, basic, clip_score: the published ones, on the metadata
    share: float = 0.3,  # of all pairs, those of the highest CLIP score
    clip_score: str = "clip_l14_similarity_score",  # the column of that score
    neg_clip_loss: float | None = None,  # share of the downloaded pairs to keep by negCLIPLoss of the published vectors
    embedding: str = "l14",  # which of the published vectors
    verify: bool = True,  # drop images whose bytes are no longer those of the metadata's sha256
    image_size: int = 512,  # longer side of stored images at most, pixels, as in DataComp
    model: str | dict[str, Any] = "ViT-B-32",  # the track's
    samples: int = _SEEN,
    batch_size: int = 4096,
    workers: int = 1,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
    seed: int = 0,  # of the training: first weights, order and augmentation of the samples
    tests: str | None = None,  # folder of test sets in CLIP_benchmark's layout
    classification: list[str] | None = None,  # names of the test sets with classes
    captions: list[str] | None = None,  # names of the test sets with captions
    allow_private: list[str] | None = None,  # networks to reach although they are not public, e.g. 127.0.0.0/8
    connect_to: dict[str, str] | None = None,  # host pattern -> address[:port] to connect to instead
    web: dict[str, Any] | None = None,  # further fields of the HTTP client: web.retries=5
) -> Workflow:
    # Choose by what the metadata tell, then fetch what is left.
    listed = Stage("metadata", adopt.run, adopt.Config(path=metadata, contents=adopt.UrlList(format="parquet")))
    pairs = Stage("urls", urls.run, urls.Config(), {"list": listed})
    chosen = Stage(
        "filter", filtering.run, filtering.Config(rules=published(filter, clip_score, share)), {"pairs": pairs}
    )
    layout = {"image_size": image_size, "resize_mode": "keep_ratio_largest", "samples_per_shard": 10_000}
    checked = {"column": "sha256"} if verify else None
    client = http_client(web, contact=contact, allow_private=allow_private, connect_to=connect_to)
    fetch = download.Config(**layout, verify=checked, web=client)
    images = Stage("download", download.run, fetch, {"pairs": chosen})
    kept = still_best(images, metadata, embedding, neg_clip_loss)
    shards = Stage("shard", shard.run, shard.Config(holdout_fraction=0), {"images": images, "selection": kept})

    # The small track's training, and evaluation on the sets at hand.
    learning = train.Config(
        model=model,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        optimizer={"lr": 5e-4},
        schedule={"warmup": min(_WARMUP * batch_size, samples // 2)},
        precision="amp_bf16" if gpu else "fp32",
        cluster={"workers": workers, "gpu": gpu},
    )
    trained = Stage("train", train.run, learning, {"shards": shards})
    scores: list[Stage] = []
    sets = named_sets(tests, classification, captions)
    if tests:
        given = Stage("tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets(sets=sets)))
        both = {"model": trained, "dataset": given}
        scores = evaluations(classification or (), captions or (), both)
    return Workflow("datacomp", with_inputs(trained, *scores))


def published(name: str, clip_score: str, share: float) -> tuple[rules.Rule, ...]:
    """The rules of a filter that DataComp has published. Raises UsageError."""
    best = rules.Score(column=clip_score, top=share)
    filters = {
        "none": (),
        "basic": rules.PRESETS["datacomp_basic"],
        "clip_score": (best,),
        "basic_clip_score": (*rules.PRESETS["datacomp_basic"], best),  # both on all pairs: their intersection
    }
    if name not in filters:
        raise UsageError(f"there is no filter {name!r}", expected=", ".join(filters))
    return filters[name]


def still_best(images: Stage, metadata: str, embedding: str, share: float | None) -> Stage:
    """All ``images``, or the share of them that negCLIPLoss of the published vectors prefers."""
    if share is None:
        return Stage("keep", filtering.run, filtering.Config(rules=()), {"images": images})
    vectors = Stage("vectors", adopt.run, adopt.Config(path=metadata, contents=adopt.Embeddings()))
    config = score.Config(scores=(score.NegCLIPLoss(),), embedding=embedding)
    scored = Stage("score", score.run, config, {"images": images, "embeddings": vectors})
    top = filtering.Config(rules=(rules.Score(column="neg_clip_loss", top=share),))
    return Stage("keep", filtering.run, top, {"images": images, "selection": scored})
