"""evaluate: any open_clip model on any test sets in CLIP_benchmark's layout.

clipline run evaluate --set model=/models/mine --set tests=/data/eval --set classification=imagenet1k
clipline run evaluate --set model=/models/epoch_32.pt --set architecture=ViT-B-32 --set tests=s3://bucket/eval ...
clipline run evaluate --set model=ViT-B-32 --set pretrained=laion2b_s34b_b79k --set captions=flickr30k ...
"""

from infra.errors import UsageError
from pipelines import adopt
from workflows.recipes._common import evaluations, with_inputs
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

    # Model and test sets stay where they are; both are identified by their content.
    testsets = Stage("tests", adopt.run, adopt.Config(path=tests, contents=adopt.TestSets(sets=sets, splits=(split,))))
    given = {"dataset": testsets}
    if pretrained is None:
        given["model"] = Stage("model", adopt.run, adopt.Config(path=model, contents=adopt.Model()))
    else:
        architecture = model

    scores = evaluations(
        classification or (),
        captions or (),
        given,
        split=split,
        model=architecture,
        pretrained=pretrained,
        batch_size=batch_size,
        gpus=gpus,
    )
    return Workflow("evaluate", with_inputs(*given.values(), *scores))
