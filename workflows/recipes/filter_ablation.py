"""filter_ablation: which filter makes the better model of one pool, at equal samples seen, and is the difference real?

Every filter's model is trained several times and evaluated on the same test sets; the last stage compares all with no
filter at all. What several of them need, embeddings, scores, the training of a network, is done once.

clipline run filter_ablation --set images=/data/img2dataset --set tests=/data/eval --set captions=flickr30k
clipline run filter_ablation --set images=... --set tests=... --set classification=imagenet1k --set scorer=/models/clip
"""

from typing import Any

from evaluation import compare, evaluate
from evaluation.tasks import Retrieval, Task, ZeroShot
from pipelines import adopt
from pipelines.curate import balance, dedup, embed, filter, score, shard
from pipelines.curate.filter import rules
from training import train
from workflows.stage import Stage, Workflow


def workflow(
    images: str,  # the pool: folder of 00000.tar beside 00000.parquet
    tests: str,  # folder of test sets in CLIP_benchmark's layout
    classification: list[str] | None = None,  # names of those with classes
    captions: list[str] | None = None,  # names of those with captions
    scorer: str = "",  # folder or checkpoint of a CLIP model whose similarities are a filter
    trusted: str = "",  # folder of WebDataset tars with good pairs, for a data filtering network
    share: float = 0.3,  # of the pool that scores, and the random control, keep
    seeds: int = 3,  # trainings of each filter
    model: str | dict[str, Any] = "ViT-B-32",  # an open_clip name or configuration
    samples: int = 12_800_000,  # seen in each training
    batch_size: int = 4096,  # pairs of a step
    workers: int = 1,  # training processes, one per GPU
    gpu: bool = False,  # train on GPUs
) -> Workflow:
    pool = Stage("images", adopt.run, adopt.Config(path=images, contents=adopt.Images()))
    sets = Stage("tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets()))
    stages = [pool, sets]

    def step(name: str, run: Any, config: Any, inputs: dict[str, Stage]) -> Stage:  # noqa: ANN401
        stages.append(Stage(name, run, config, inputs))
        return stages[-1]

    def trained(name: str, shards: Stage, seed: int) -> Stage:
        warmup, cluster = {"warmup": samples // 10}, {"workers": workers, "gpu": gpu}
        config = train.Config(
            model=model, samples=samples, batch_size=batch_size, seed=seed, schedule=warmup, cluster=cluster
        )
        return step(name, train.run, config, {"shards": shards})

    def best(name: str, scorer: Stage) -> Stage:
        """The share of the pool whose images and captions are nearest in the eyes of a model."""
        embedded = step(f"embed_{name}", embed.run, embed.Config(), {"images": pool, "model": scorer})
        scored = step(f"score_{name}", score.run, score.Config(), {"images": pool, "embeddings": embedded})
        top = filter.Config(rules=(rules.Score(column="clip_score", top=share),))
        return step(f"filter_{name}", filter.run, top, {"images": pool, "selection": scored})

    # The selections that are compared.
    kept = {"none": step("filter_none", filter.run, filter.Config(rules=()), {"images": pool})}
    sample = filter.Config(rules=(rules.Sample(share=share),))
    kept["random"] = step("filter_random", filter.run, sample, {"images": pool})
    kept["basic"] = step("filter_basic", filter.run, filter.Config(), {"images": pool})
    kept["dedup"] = step("dedup", dedup.run, dedup.Config(), {"images": pool, "selection": kept["none"]})
    kept["balance"] = step("balance", balance.run, balance.Config(), {"selection": kept["none"]})
    if scorer:
        given = step("scorer", adopt.run, adopt.Config(path=scorer, contents=adopt.Model()), {})
        kept["clip_score"] = best("clip_score", given)
    if trusted:
        good = step("trusted", adopt.run, adopt.Config(path=trusted, contents=adopt.Shards()), {})
        kept["dfn"] = best("dfn", trained("network", good, 0))

    # A model of each, several times, on the same test sets.
    tasks: dict[str, Task] = {f"zeroshot_{name}": ZeroShot(dataset=name) for name in classification or ()}
    tasks |= {f"retrieval_{name}": Retrieval(dataset=name) for name in captions or ()}
    scores: dict[str, Stage] = {}
    variants: dict[str, list[str]] = {name: [] for name in kept}
    for name, selection in kept.items():
        shards = step(
            f"shard_{name}", shard.run, shard.Config(holdout_fraction=0), {"images": pool, "selection": selection}
        )
        for seed in range(seeds):
            learned = trained(f"train_{name}_{seed}", shards, seed)
            for task_name, task in tasks.items():
                key = f"{task_name}_{name}_{seed}".replace("/", "_")
                config = evaluate.Config(task=task)
                scores[f"scores_{key}"] = step(key, evaluate.run, config, {"model": learned, "dataset": sets})
                variants[name].append(f"scores_{key}")
    step("compare", compare.run, compare.Config(variants=variants), scores)
    return Workflow("filter_ablation", tuple(stages))
