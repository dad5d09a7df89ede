"""curate: images you have, as img2dataset writes them, to clean, deduplicated and balanced training shards.

clipline run curate --set images=/data/img2dataset --set min_side=128
clipline run curate --set images=s3://bucket/laion --set languages=en --set balance.t=1000 --set holdout_fraction=0
"""

from pipelines import adopt
from pipelines.curate import balance, dedup, filter, shard
from pipelines.curate.filter import rules
from workflows.stage import Stage, Workflow


def workflow(
    images: str,  # folder of 00000.tar beside 00000.parquet, here or at an fsspec URL
    min_side: int = 200,  # pixels of the shorter side of the original
    max_aspect: float = 3.0,  # longer by shorter side
    languages: list[str] | None = None,  # of captions, as ISO 639-1 codes; by default any
    max_per_entry: int = 20_000,  # captions that MetaCLIP's balancing leaves of a common word
    samples_per_shard: int = 1000,
    seed: int = 0,  # of the balancing, the shuffle and the holdout
    holdout_fraction: float = 0.05,  # share of the images kept from training, as a retrieval test set
) -> Workflow:
    downloaded = {"images": Stage("images", adopt.run, adopt.Config(path=images, contents=adopt.Images()))}

    # What is worth training on.
    image_rules = (rules.ImageSide(min=min_side), rules.ImageAspect(max=max_aspect))
    text_rules = (rules.TextJunk(), rules.TextLength(), rules.TextWords())
    language_rules = (rules.Language(languages=languages),) if languages else ()
    filtering = filter.Config(rules=(*image_rules, *text_rules, *language_rules))
    filtered = Stage("filter", filter.run, filtering, downloaded)

    # One row per image, and no concept too often.
    deduplicated = Stage("dedup", dedup.run, dedup.Config(), {**downloaded, "selection": filtered})
    balanced = Stage("balance", balance.run, balance.Config(t=max_per_entry, seed=seed), {"selection": deduplicated})

    # Shuffled training shards, and a holdout that shares no image with them.
    sharding = shard.Config(samples_per_shard=samples_per_shard, seed=seed, holdout_fraction=holdout_fraction)
    shards = Stage("shard", shard.run, sharding, {**downloaded, "selection": balanced})
    return Workflow("curate", (*downloaded.values(), filtered, deduplicated, balanced, shards))
