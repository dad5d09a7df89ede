"""train: from your own WebDataset shards to a model, evaluated on your own test sets.

clipline run train --set shards=/data/shards --set model=ViT-B-32 --set gpu=true --set workers=8
clipline run train --set shards=s3://bucket/cc12m --set tests=/data/eval --set classification=imagenet ...
clipline run train --set ... --set train.objective=siglip --set train.precision=amp_bf16 --set 'workers=[8, 64]'
"""

from typing import Any

from evaluation import testsets
from evaluation.tasks import retrieval, zeroshot
from infra.errors import UsageError
from training import train
from workflows.recipes._common import train_config
from workflows.stage import Stage, Workflow


def workflow(
    shards: list[str],  # folders or fsspec URLs of tars with images and captions
    weights: dict[str, float] | None = None,  # shares of samples by folder of shards; by default all are one set
    model: str | dict[str, Any] = "ViT-B-32",  # an open_clip name or configuration
    samples: int = 12_800_000,  # seen in training
    batch_size: int = 4096,  # samples of a step, over all workers
    workers: int | list[int] = 1,  # training processes, one per GPU; [least, most]: as many as there is room for
    gpu: bool = False,  # train on GPUs
    tests: str | None = None,  # folder of test sets in CLIP_benchmark's layout
    classification: list[str] | None = None,  # names of the test sets with classes
    captions: list[str] | None = None,  # names of the test sets with captions
) -> Workflow:
    sets = (*(classification or ()), *(captions or ()))
    if sets and not tests:
        raise UsageError(f"no folder given for the test sets {', '.join(sets)}", fix="--set tests=FOLDER")
    config = train_config(
        model=model, samples=samples, batch_size=batch_size, workers=workers, gpu=gpu, validation=sets,
        shards=shards, weights=weights,
    )  # fmt: skip
    if not sets:
        return Workflow("train", (Stage("train", train.run, config),))
    known = Stage("tests", testsets.run, testsets.Config(folder=tests, sets=sets))
    trained = Stage("train", train.run, config, {"tests": known})
    both = {"model": trained, "dataset": known}
    scores = [
        Stage(f"{kind.__name__.rpartition('.')[2]}_{name}", kind.run, kind.Config(dataset=name), both)
        for kind, names in ((zeroshot, classification), (retrieval, captions))
        for name in names or ()
    ]
    return Workflow("train", (known, trained, *scores))
