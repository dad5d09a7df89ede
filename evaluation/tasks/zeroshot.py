"""Zero-shot classification: classes become sentences, an image goes to the nearest (Radford et al., 2021).

Input: ``model`` (a train artifact) and ``dataset`` (test sets in CLIP_benchmark's layout). Output: the result as
CLIP_benchmark JSON, a row per image (so that two runs can be compared pairwise) and per class as Parquet, a confusion
matrix and sample predictions as pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from evaluation.tasks.task import Task, batched, evaluate, intervals, result, set_up
from infra.errors import DataError
from infra.formats.testset import EvalSet, prompts
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from infra.encoder import Encoder
    from infra.metrics import Classified

__all__ = ["Config", "run", "work"]

_PICTURED = 12


class Config(Task):
    templates: tuple[str, ...] | None = Field(
        None,
        description="prompts with {c} for the class; none: those of the test set, else the 80 of CLIP's ImageNet",
    )

    @field_validator("templates")
    @classmethod
    def _hold_the_class(cls, templates: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if templates is not None and (not templates or any("{c}" not in template for template in templates)):
            raise ValueError("every template must hold {c}, and there must be one")
        return templates


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    return evaluate(config, inputs, context, work)


def work(spec: tuple[Config, Mapping[str, Artifact]], output: ShardOutput) -> ShardRecord:
    """The whole evaluation; runs in one process."""
    import numpy as np

    from evaluation import figures
    from infra import metrics

    config, inputs = spec
    examples = EvalSet.open(inputs["dataset"], config.dataset, config.split)
    if examples.retrieval or not examples.classes:
        raise DataError(
            f"test set {config.dataset!r} has no classes",
            expected="a classification set with classnames.txt",
            found="a retrieval set" if examples.retrieval else "no classnames.txt",
            fix="evaluate it with evaluation.tasks.retrieval" if examples.retrieval else "",
        )
    encoder = set_up(config, inputs["model"])
    templates = config.templates or examples.templates
    sentences = prompts(examples.classes, templates)
    classifier = metrics.ensemble(encoder.encode_texts(sentences), len(examples.classes))
    keys, labels, images = _encode(examples, encoder, config.batch_size)
    classified = metrics.classify(images, classifier, labels)
    values = intervals(config, classified.names(), len(labels), classified.resampled)

    output.write(*result(config, inputs["model"], "zeroshot_classification", values))
    output.write_table("data/predictions.parquet", _predictions(keys, classified, examples.classes))
    matrix = metrics.confusion_matrix(classified)
    output.write_table("data/classes.parquet", _per_class(matrix, examples.classes))
    output.write("figures/confusion.png", figures.confusion(matrix, examples.classes))
    scaled = np.float32(encoder.logit_scale) * classifier
    output.write("figures/predictions.png", _picture(config, examples, classified, images, scaled))
    facts = {
        "metrics": {name: asdict(interval) for name, interval in values.items()},
        "images": len(labels),
        "classes": len(examples.classes),
        "prompts_per_class": len(sentences) // len(examples.classes),
    }
    return output.commit(facts=facts)


def _encode(examples: EvalSet, encoder: Encoder, batch_size: int) -> tuple[list[str], list[int], NDArray[np.float32]]:
    """Key, label and features of every image; only one batch of pictures is in memory at a time."""
    import numpy as np

    keys: list[str] = []
    labels: list[int] = []
    features: list[NDArray[np.float32]] = []
    for batch in batched(examples, batch_size):
        keys += [sample.key for sample in batch]
        labels += [sample.label for sample in batch]
        features.append(encoder.encode_images([sample.image for sample in batch]))
    if not keys:
        raise DataError(f"test set {examples.name!r} is empty", expected="an image at least")
    return keys, labels, np.concatenate(features)


def _predictions(keys: Sequence[str], classified: Classified, classes: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "label": classified.labels,
            "predicted": classified.predicted,
            "rank": classified.rank,  # of the true class, 0 = first
            "class": pa.array([classes[label] for label in classified.labels], pa.string()),
            "predicted_class": pa.array([classes[label] for label in classified.predicted], pa.string()),
        }
    )


def _per_class(matrix: NDArray[np.int64], classes: Sequence[str]) -> pa.Table:
    """A row per class: images, how many were right, and the class most often taken for it."""
    import numpy as np
    import pyarrow as pa

    images, right = matrix.sum(axis=1), matrix.diagonal()
    wrong = matrix - np.diag(right)
    worst = wrong.argmax(axis=1)
    taken = [classes[other] if wrong[row, other] else None for row, other in enumerate(worst)]
    return pa.table(
        {
            "class": pa.array(classes, pa.string()),
            "images": images,
            "right": right,
            "recall": pa.array([r / n if n else None for r, n in zip(right, images, strict=True)], pa.float64()),
            "taken_for": pa.array(taken, pa.string()),
            "taken_for_images": wrong.max(axis=1),
        }
    )


def _picture(
    config: Config,
    examples: EvalSet,
    classified: Classified,
    features: NDArray[np.float32],
    classifier: NDArray[np.float32],
) -> bytes:
    """Sample predictions: as many wrong as right ones if there are enough of both, drawn at random."""
    import numpy as np

    from evaluation.figures import Prediction, predictions
    from infra.metrics import top_k

    random = np.random.default_rng(config.seed)
    wrong = random.permutation(np.flatnonzero(classified.rank > 0))
    right = random.permutation(np.flatnonzero(classified.rank == 0))
    some = wrong[: max(_PICTURED // 2, _PICTURED - len(right))]
    chosen = [*some, *right[: _PICTURED - len(some)]]
    images = examples.images([int(place) for place in chosen])
    logits = (features[chosen] @ classifier.T).astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = odds / odds.sum(axis=1, keepdims=True)
    items = [
        Prediction(
            image=images[int(place)],
            truth=examples.classes[classified.labels[place]],
            top=tuple((examples.classes[column], float(row[column])) for column in columns),
        )
        for place, row, columns in zip(chosen, probability, top_k(logits, 3), strict=True)
    ]
    title = f"{len(some)} of {len(wrong)} wrong and {len(chosen) - len(some)} of {len(right)} right, drawn at random"
    return predictions(items, title)
