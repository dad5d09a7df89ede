"""dfn: train a small model on pairs you trust, score a pool with it, keep the best, and train on those.

That is a data filtering network (Fang et al. 2023, arXiv:2309.17425); a good filter need not be a good model.

clipline run dfn --set trusted=/data/trusted_shards --set images=/data/img2dataset --set keep=0.2
clipline run dfn --set trusted=... --set images=... --set keep=0.3    # the network and its scores are there already
"""

from typing import Any

from evaluation import embed as embed_tests
from evaluation import evaluate
from evaluation.tasks import Retrieval
from pipelines import adopt
from pipelines.curate import embed, filter, score, shard
from pipelines.curate.filter import rules
from training import train
from workflows.stage import Stage, Workflow


def workflow(
    trusted: str,  # folder of WebDataset tars with pairs of good quality, a few million are enough
    images: str,  # the pool: folder of 00000.tar beside 00000.parquet
    keep: float = 0.2,  # share of the pool that is trained on, the one of the highest scores
    network: str | dict[str, Any] = "ViT-B-32",  # model of the filter, an open_clip name or configuration
    network_samples: int = 12_800_000,  # the filter sees in training
    model: str | dict[str, Any] = "ViT-B-32",  # that is trained on what was kept
    samples: int = 12_800_000,  # it sees
    batch_size: int = 4096,
    workers: int = 1,  # training processes, one per GPU
    gpu: bool = False,  # train and score on GPUs
    seed: int = 0,  # of the last training: first weights, order and augmentation of the samples
) -> Workflow:
    good = Stage("trusted", adopt.run, adopt.Config(path=trusted, contents=adopt.Shards()))
    pool = Stage("images", adopt.run, adopt.Config(path=images, contents=adopt.Images()))

    def learning(architecture: str | dict[str, Any], seen: int, seed: int = 0) -> train.Config:
        return train.Config(
            model=architecture,
            samples=seen,
            batch_size=batch_size,
            seed=seed,
            schedule={"warmup": seen // 10},
            cluster={"workers": workers, "gpu": gpu},
        )

    # The network, and what it makes of the pool.
    filtering = Stage("network", train.run, learning(network, network_samples), {"shards": good})
    limits = {"gpus": 1, "cpus": 8} if gpu else {}
    embedded = Stage("embed", embed.run, embed.Config(limits=limits), {"images": pool, "model": filtering})
    scored = Stage("score", score.run, score.Config(), {"images": pool, "embeddings": embedded})

    # The best of it.
    top = filter.Config(rules=(rules.Score(column="clip_score", top=keep),))
    best = Stage("filter", filter.run, top, {"images": pool, "selection": scored})
    shards = Stage("shard", shard.run, shard.Config(), {"images": pool, "selection": best})
    trained = Stage("train", train.run, learning(model, samples, seed), {"shards": shards})

    # What it learned, on pairs held out.
    tests = embed_tests.Config(sets=("holdout",))
    tested = Stage("embed_holdout", embed_tests.run, tests, {"model": trained, "dataset": shards})
    retrieval = evaluate.Config(task=Retrieval(dataset="holdout"))
    evaluated = Stage("retrieval", evaluate.run, retrieval, {"dataset": shards, "embeddings": tested})
    return Workflow("dfn", (good, pool, filtering, embedded, scored, best, shards, trained, tested, evaluated))
