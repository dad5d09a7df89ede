"""evaluate: any open_clip model on any test sets in CLIP_benchmark's layout.

clipline run evaluate --set model=/models/mine --set tests=/data/eval --set classification=imagenet1k
clipline run evaluate --set model=/models/epoch_32.pt --set architecture=ViT-B-32 --set tests=s3://bucket/eval ...
clipline run evaluate --set model=ViT-B-32 --set pretrained=laion2b_s34b_b79k --set captions=flickr30k ...
"""

from evaluation import evaluate
from evaluation.tasks import Retrieval, Task, ZeroShot
from infra.errors import UsageError
from pipelines import adopt
from workflows.stage import Stage, Workflow


def workflow(
    model: str,  # a folder in open_clip's layout or a checkpoint file; with pretrained, open_clip's name of a model
    tests: str,  # folder of test sets in CLIP_benchmark's layout, a folder each
    classification: list[str] | None = None,  # the sets with classes, by name
    captions: list[str] | None = None,  # the sets with captions
    architecture: str | None = None,  # open_clip's name of a checkpoint file's model
    pretrained: str | None = None,  # tag of weights that open_clip downloads
    split: str = "test",  # of all these sets
    batch_size: int = 64,  # images or texts encoded at once
    gpus: float = 0,  # for each test set; 0.5: two share one
) -> Workflow:
    sets = (*(classification or ()), *(captions or ()))
    if not sets:
        raise UsageError("no test set is named", fix="--set classification=NAME or --set captions=NAME")
    tasks: dict[str, Task] = {f"zeroshot_{name}": ZeroShot(dataset=name, split=split) for name in classification or ()}
    tasks |= {f"retrieval_{name}": Retrieval(dataset=name, split=split) for name in captions or ()}

    # Model and test sets stay where they are; both are identified by their content.
    testsets = Stage("tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets(sets=sets, split=split)))
    given = {"dataset": testsets}
    if pretrained is None:
        given["model"] = Stage("model", adopt.run, adopt.Config(path=model, contents=adopt.Model()))
    else:
        architecture = model

    # A stage per test set: each is cached by itself, and several run at once.
    scores = []
    for name, task in tasks.items():
        config = evaluate.Config(task=task, model=architecture, pretrained=pretrained, batch_size=batch_size, gpus=gpus)
        scores.append(Stage(name.replace("/", "_"), evaluate.run, config, given))
    return Workflow("evaluate", (*given.values(), *scores))
