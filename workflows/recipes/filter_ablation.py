"""filter_ablation: which filter makes the better model of one pool, at equal samples seen, and is the difference real?

Every filter's model is trained several times and evaluated on the same test sets; the last stage compares all with no
filter at all. What several of them need, embeddings, scores, the training of a network, is done once.

clipline run filter_ablation --set images=/data/img2dataset --set tests=/data/eval --set captions=flickr30k
clipline run filter_ablation --set images=... --set tests=... --set classification=imagenet1k --set scorer=/models/clip
"""

from typing import Any

from evaluation import compare
from pipelines import adopt
from pipelines.curate import balance, dedup, embed, filter, score, semdedup, shard
from pipelines.curate.filter import rules
from training import train
from workflows.recipes._common import evaluations, named_sets, with_inputs
from workflows.stage import Stage, Workflow

RESAMPLES = 20_000  # of each test set: a hundred and more differences are tested at once, each on a share of 5%


def workflow(
    images: str,  # the pool: folder of 00000.tar beside 00000.parquet
    tests: str,  # folder of test sets in CLIP_benchmark's layout
    classification: list[str] | None = None,  # names of those with classes
    captions: list[str] | None = None,  # names of those with captions
    scorer: str = "",  # folder or checkpoint of a CLIP model: its similarities are a filter, its vectors SemDeDup's
    trusted: str = "",  # folder of WebDataset tars with good pairs, for a data filtering network
    pretrained: str = "",  # folder or checkpoint of a model that every training starts from
    share: float = 0.3,  # of the pool that scores, and the random control, keep
    seeds: int = 3,  # trainings of each filter
    seed: int = 0,  # of the first of them; the others count on
    model: str | dict[str, Any] = "ViT-B-32",  # an open_clip name or configuration
    samples: int = 12_800_000,  # seen in each training
    batch_size: int = 4096,  # pairs of a step
    workers: int = 1,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
    primary: list[str] | None = None,  # metrics the verdict is about; none: acc1 and mean_recall@1
    training: dict[str, Any] | None = None,  # further fields of every training: training.optimizer.lr=0.001
) -> Workflow:
    pool = Stage("images", adopt.run, adopt.Config(path=images, contents=adopt.Images()))
    named_sets(tests, classification, captions)
    sets = Stage("tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets()))

    start = {}
    if pretrained:
        start["pretrained"] = Stage("pretrained", adopt.run, adopt.Config(path=pretrained, contents=adopt.Model()))
    warmup, cluster = {"warmup": samples // 10}, {"workers": workers, "gpu": gpu}
    fields = {"model": model, "schedule": warmup, "cluster": cluster, **(training or {})}

    def trained(name: str, shards: Stage, seed: int) -> Stage:
        config = train.Config(samples=samples, batch_size=batch_size, seed=seed, **fields)
        return Stage(name, train.run, config, {"shards": shards, **start})

    # What is compared: selections by rules, and by models that score.
    kept = by_rules(pool, share)
    if scorer:
        given = Stage("scorer", adopt.run, adopt.Config(path=scorer, contents=adopt.Model()))
        seen = Stage("embed_clip_score", embed.run, embed.Config(), {"images": pool, "model": given})
        kept["clip_score"] = best(pool, "clip_score", seen, share)
        alike = {"images": pool, "selection": kept["none"], "embeddings": seen}
        kept["semdedup"] = Stage("semdedup", semdedup.run, semdedup.Config(share=share), alike)
    if trusted:
        good = Stage("trusted", adopt.run, adopt.Config(path=trusted, contents=adopt.Shards()))
        judged = {"images": pool, "model": trained("network", good, 0)}
        kept["dfn"] = best(pool, "dfn", Stage("embed_dfn", embed.run, embed.Config(), judged), share)

    # A model of each, several times, on the same test sets.
    scores: dict[str, Stage] = {}
    variants: dict[str, list[str]] = {name: [] for name in kept}
    for name, selection in kept.items():
        sharding, of_pool = shard.Config(holdout_fraction=0), {"images": pool, "selection": selection}
        shards = Stage(f"shard_{name}", shard.run, sharding, of_pool)
        for number in range(seed, seed + seeds):
            both = {"model": trained(f"train_{name}_{number}", shards, number), "dataset": sets}
            scored = evaluations(
                classification or (), captions or (), both, ending=f"_{name}_{number}", bootstrap=RESAMPLES
            )
            for stage in scored:
                scores[f"scores_{stage.name}"] = stage
                variants[name].append(f"scores_{stage.name}")
    chosen = {"primary": tuple(primary)} if primary else {}
    compared = Stage("compare", compare.run, compare.Config(variants=variants, **chosen), scores)
    return Workflow("filter_ablation", with_inputs(compared))


def by_rules(pool: Stage, share: float) -> dict[str, Stage]:
    """Selections that need no model: all, a random share, DataComp's rules, no duplicates, no topic too often."""
    everything = Stage("filter_none", filter.run, filter.Config(rules=()), {"images": pool})
    sample = filter.Config(rules=(rules.Sample(share=share),))
    return {
        "none": everything,
        "random": Stage("filter_random", filter.run, sample, {"images": pool}),
        "basic": Stage("filter_basic", filter.run, filter.Config(), {"images": pool}),
        "dedup": Stage("dedup", dedup.run, dedup.Config(), {"images": pool, "selection": everything}),
        "balance": Stage("balance", balance.run, balance.Config(), {"selection": everything}),
    }


def best(pool: Stage, name: str, embedded: Stage, share: float) -> Stage:
    """The share of the pool whose images and captions are nearest to each other by their vectors."""
    scored = Stage(f"score_{name}", score.run, score.Config(), {"images": pool, "embeddings": embedded})
    top = filter.Config(rules=(rules.Score(column="clip_score", top=share),))
    return Stage(f"filter_{name}", filter.run, top, {"images": pool, "selection": scored})
