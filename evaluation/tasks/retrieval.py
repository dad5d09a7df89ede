"""Image <-> text retrieval: which image does a caption mean among all, which captions fit an image.

Input: ``model`` (a train artifact) and ``dataset`` (an artifact with a retrieval set in CLIP_benchmark's layout, such
as the shard stage's holdout). Output: the result as CLIP_benchmark JSON (``image_retrieval_recall@k`` asks with a
text, ``text_retrieval_recall@k`` with an image), a row per query as Parquet, galleries as pictures. Recall counts a
query right if any answer of its own is among the first k; for equals see :mod:`infra.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from evaluation.tasks.task import Task, batched, evaluate, intervals, result, set_up
from infra.errors import DataError
from infra.formats.testset import EvalSet
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from infra.encoder import Encoder
    from infra.metrics import Retrieved

__all__ = ["Config", "run", "work"]

_QUERIES, _ANSWERS = 6, 5  # in each gallery


class Config(Task):
    dataset: str = Field("holdout", description="retrieval set: a folder in CLIP_benchmark's layout below data/")
    recall_at: tuple[int, ...] = Field((1, 5, 10), min_length=1, description="the k of recall@k")


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    return evaluate(config, inputs, context, work)


@dataclass(frozen=True)
class _Encoded:
    """A retrieval set as features. Caption i has wording ``wordings[text_of[i]]`` and belongs to image ``image_of[i]``.

    Each wording is encoded once: it saves the work, and equal captions then score equal to the last bit.
    """

    keys: list[str]  # of the images
    images: NDArray[np.float32]
    wordings: list[str]
    texts: NDArray[np.float32]
    text_of: list[int]
    image_of: list[int]


def work(spec: tuple[Config, Mapping[str, Artifact]], output: ShardOutput) -> ShardRecord:
    """The whole evaluation; runs in one process."""
    from infra import metrics

    config, inputs = spec
    examples = EvalSet.open(inputs["dataset"], config.dataset, config.split)
    if not examples.retrieval:
        raise DataError(
            f"test set {config.dataset!r} has no captions",
            expected="retrieval in dataset_type.txt",
            fix="evaluate it with evaluation.tasks.zeroshot",
        )
    data = _encode(examples, set_up(config, inputs["model"]), config.batch_size)
    retrieved = metrics.retrieve(data.images, data.texts, data.text_of, data.image_of)
    values = intervals(
        config,
        retrieved.names(config.recall_at),
        len(data.keys),
        lambda index: retrieved.resampled(index, config.recall_at),
    )

    output.write(*result(config, inputs["model"], "zeroshot_retrieval", values))
    by_image, by_text = _tables(data, retrieved)
    output.write_table("data/image_queries.parquet", by_image)
    output.write_table("data/text_queries.parquet", by_text)
    for name, picture in _pictures(config, examples, data):
        output.write(f"figures/{name}.png", picture)
    facts = {
        "metrics": {name: asdict(interval) for name, interval in values.items()},
        "images": len(data.keys),
        "captions": len(data.text_of),
        "distinct_captions": len(data.wordings),
    }
    return output.commit(facts=facts)


def _encode(examples: EvalSet, encoder: Encoder, batch_size: int) -> _Encoded:
    import numpy as np

    keys: list[str] = []
    features: list[NDArray[np.float32]] = []
    wordings: dict[str, int] = {}
    text_of: list[int] = []
    image_of: list[int] = []
    for batch in batched(examples, batch_size):
        features.append(encoder.encode_images([sample.image for sample in batch]))
        for sample in batch:
            text_of += [wordings.setdefault(caption, len(wordings)) for caption in sample.captions]
            image_of += [len(keys)] * len(sample.captions)
            keys.append(sample.key)
    if not keys:
        raise DataError(f"test set {examples.name!r} is empty", expected="an image at least")
    texts = encoder.encode_texts(list(wordings))
    return _Encoded(keys, np.concatenate(features), list(wordings), texts, text_of, image_of)


def _tables(data: _Encoded, retrieved: Retrieved) -> tuple[pa.Table, pa.Table]:
    """Where the right answer stands for each image and for each caption: wrong ones before it, and level with it."""
    import pyarrow as pa

    by_image = pa.table(
        {
            "key": pa.array(data.keys, pa.string()),
            "better": retrieved.image_better,
            "equal": retrieved.image_equal,
            "right": retrieved.image_right,
        }
    )
    by_text = pa.table(
        {
            "key": pa.array([data.keys[owner] for owner in data.image_of], pa.string()),
            "caption": pa.array([data.wordings[wording] for wording in data.text_of], pa.string()),
            "better": retrieved.text_better,
            "equal": retrieved.text_equal,
        }
    )
    return by_image, by_text


def _pictures(config: Config, examples: EvalSet, data: _Encoded) -> list[tuple[str, bytes]]:
    """Both galleries for queries drawn at random, so that they show the model as it is."""
    import numpy as np

    from evaluation.figures import Answer, Query, image_to_text, text_to_image
    from infra.metrics import top_k

    random = np.random.default_rng(config.seed)
    captions = np.sort(random.permutation(len(data.text_of))[:_QUERIES])
    pictured = np.sort(random.permutation(len(data.keys))[:_QUERIES])
    text_of, image_of = np.asarray(data.text_of), np.asarray(data.image_of)
    to_image = data.texts[text_of[captions]] @ data.images.T
    to_text = data.images[pictured] @ data.texts.T
    best_images, best_texts = top_k(to_image, _ANSWERS), top_k(to_text, _ANSWERS)
    images = examples.images([*best_images.ravel().tolist(), *pictured.tolist()])

    by_text = [
        Query(
            query=data.wordings[text_of[caption]],
            answers=tuple(
                Answer(images[int(found)], float(scores[found]), bool(image_of[caption] == found)) for found in best
            ),
        )
        for caption, scores, best in zip(captions, to_image, best_images, strict=True)
    ]
    by_image = [
        Query(
            query=images[int(place)],
            answers=tuple(
                Answer(
                    data.wordings[found], float(scores[found]), bool(((text_of == found) & (image_of == place)).any())
                )
                for found in best
            ),
        )
        for place, scores, best in zip(pictured, to_text, best_texts, strict=True)
    ]
    return [
        ("text_to_image", text_to_image(by_text, f"{len(by_text)} captions drawn at random, and the images they find")),
        (
            "image_to_text",
            image_to_text(by_image, f"{len(by_image)} images drawn at random, and the captions they find"),
        ),
    ]
