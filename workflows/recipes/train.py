"""train: a model from WebDataset shards you have, scored on test sets you have.

clipline run train --set shards=/data/shards --set model=ViT-B-32 --set gpu=true --set workers=8
clipline run train --set shards=s3://bucket/cc12m --set tests=/data/eval --set classification=imagenet ...
clipline run train --set ... --set train.objective=siglip --set train.precision=amp_bf16 --set 'workers=[8, 64]'
"""

from typing import Any

from evaluation import evaluate
from evaluation.tasks import Retrieval, Task, ZeroShot
from infra.errors import UsageError
from pipelines import adopt
from training import train
from workflows.stage import Stage, Workflow


def workflow(
    shards: list[str],  # folders or fsspec URLs of tars with images and captions
    weights: dict[str, float] | None = None,  # of each of them, by sample; by default all are one set
    model: str | dict[str, Any] = "ViT-B-32",  # an open_clip name or configuration
    samples: int = 12_800_000,  # seen in training
    batch_size: int = 4096,  # samples of a step, over all workers
    workers: int | list[int] = 1,  # processes, one per GPU; [least, most]: as many as there is room for
    gpu: bool = False,  # train on GPUs
    tests: str | None = None,  # folder of test sets in CLIP_benchmark's layout
    classification: list[str] | None = None,  # those with classes, by name
    captions: list[str] | None = None,  # those with captions
) -> Workflow:
    sets = (*(classification or ()), *(captions or ()))
    if sets and not tests:
        raise UsageError(f"nobody said where the test sets {', '.join(sets)} are", fix="--set tests=FOLDER")
    learning = train.Config(
        model=model, shards=shards, weights=weights, samples=samples, batch_size=batch_size, warmup=samples // 10,
        workers=workers, gpu=gpu, validation=sets, validation_every=max(1, samples // 10),
    )  # fmt: skip
    if not sets:
        return Workflow("train", (Stage("train", train.run, learning),))
    known = Stage("tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets(sets=sets)))
    trained = Stage("train", train.run, learning, {"tests": known})
    both = {"model": trained, "dataset": known}
    tasks: dict[str, Task] = {f"zeroshot_{name}": ZeroShot(dataset=name) for name in classification or ()}
    tasks |= {f"retrieval_{name}": Retrieval(dataset=name) for name in captions or ()}
    scores = [Stage(name, evaluate.run, evaluate.Config(task=task), both) for name, task in tasks.items()]
    return Workflow("train", (known, trained, *scores))
