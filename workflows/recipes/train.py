"""train: from your own WebDataset shards to a model, evaluated on your own test sets.

clipline run train --set shards=/data/shards --set model=ViT-B-32 --set gpu=true --set workers=8
clipline run train --set shards=s3://bucket/cc12m --set tests=/data/eval --set classification=imagenet ...
clipline run train --set ... --set objective=siglip --set train.precision=amp_bf16 --set 'workers=[8, 64]'
"""

from typing import Any

from infra.errors import UsageError
from pipelines import adopt
from training import train
from workflows.recipes._common import adopted, evaluations, named_sets, with_inputs
from workflows.stage import Stage, Workflow


def workflow(
    shards: list[str],  # folders or fsspec URLs of tars with images (for vilbert's: regions) and captions
    weights: dict[str, float] | None = None,  # shares of samples by folder of shards; by default all are one set
    model: str | dict[str, Any] = "ViT-B-32",  # an open_clip name or configuration
    objective: str | dict[str, Any] = "infonce",  # or siglip, vsepp, albef, coca, distill, vilt, vilbert, vqa
    pretrained: str | None = None,  # folder or checkpoint of a model to start from
    teacher: str | None = None,  # folder of the model that the objective distill learns from
    samples: int = 12_800_000,  # seen in training
    batch_size: int = 4096,  # samples of a step, over all workers
    workers: int | list[int] = 1,  # training processes, one per GPU; [least, most]: as many as there is room for
    gpu: bool = False,  # train on GPUs
    seed: int = 0,  # of the training: first weights, order and augmentation of the samples
    tests: str | None = None,  # folder of test sets in CLIP_benchmark's layout
    classification: list[str] | None = None,  # names of the test sets with classes
    captions: list[str] | None = None,  # names of the test sets with captions
) -> Workflow:
    sets = named_sets(tests, classification, captions)

    # What you have, taken in where it is. The first folder of shards is the input "shards", others "shards_2", ...
    folders = list(dict.fromkeys(shards))
    chosen = train.Config(objective=objective).objective
    models = {name: folder for name, folder in (("pretrained", pretrained), ("teacher", teacher)) if folder is not None}
    given = {name: adopt.Config(path=folder, contents="model") for name, folder in models.items()}
    stores = {name: config.store for name, config in given.items() if name in chosen.needs and config.is_folder()}
    sources = adopted("shards", folders, adopt.RegionShards() if chosen.regions(stores) else adopt.Shards())
    names = dict(zip(folders, sources, strict=True))
    if weights and set(weights) != set(names):
        raise UsageError("weights are of other folders", expected=", ".join(names), found=", ".join(weights))
    sources |= {name: Stage(name, adopt.run, config) for name, config in given.items()}
    if tests:
        sources["tests"] = Stage("tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets(sets=sets)))

    train_config = train.Config(
        model=model,
        objective=chosen,
        data={"weights": {names[folder]: weight for folder, weight in weights.items()}} if weights else {},
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        schedule={"warmup": samples // 10},
        validation={"sets": sets, "every": max(1, samples // 10)},
        cluster={"workers": workers, "gpu": gpu},
    )
    trained = Stage("train", train.run, train_config, sources)

    both = {"model": trained, "dataset": sources["tests"]} if sets else {}
    scores = evaluations(classification or (), captions or (), both)
    return Workflow("train", with_inputs(*sources.values(), trained, *scores))
