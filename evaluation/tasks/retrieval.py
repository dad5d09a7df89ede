"""Image-text retrieval: the images nearest to each caption, the captions nearest to each image.

``image_retrieval_recall@k`` queries with a text, ``text_retrieval_recall@k`` with an image: a query counts if any of
its own answers is among the first k. For answers of equal score see :mod:`infra.ranking`.

Captions may be in several languages, which the samples' ``json`` names: ``{"languages": ["en", "de"]}``, one for each
caption, or ``{"language": "de"}`` for all of a sample. Each language is then measured as a set of its own, too: its
captions search all images, and images search its captions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evaluation.tasks.task import Columns, Scores, Task
from infra.errors import DataError

if TYPE_CHECKING:
    from evaluation.embedded import Embedded
    from infra.measures import Metric
    from infra.ranking import Retrieved

__all__ = ["Retrieval"]


class Retrieval(Task):
    """Recall and median rank in both directions; a row per query, and one per language with intervals."""

    kind: ClassVar[str] = "zeroshot_retrieval"

    recall_at: tuple[int, ...] = Field((1, 5, 10), min_length=1, description="the k of recall@k")

    rerank: int | None = Field(
        None, ge=1, description="first answers of each query that the model's fusion encoder ranks anew, as ALBEF does"
    )

    def evaluate(self, data: Embedded) -> Scores:
        # Here, because they load numpy and matplotlib and recipes import this module.
        from evaluation import galleries
        from infra import ranking

        if not data.examples.retrieval:
            raise DataError(
                f"test set {data.examples.name!r} has no captions",
                expected="retrieval in dataset_type.txt",
                fix="evaluate it with evaluation.tasks.ZeroShot",
            )
        retrieved = ranking.retrieve(data.images, data.texts, data.text_of, data.image_of)
        metrics = retrieved.metrics(self.recall_at) | retrieved.median_ranks()
        if self.rerank is not None:
            from evaluation.reranking import reranked

            # The ranks of the encoders alone stay beside those of both.
            retrieved, first = reranked(data, retrieved, self.rerank), metrics
            metrics = retrieved.metrics(self.recall_at) | retrieved.median_ranks()
            metrics |= {f"encoders_{name}": metric for name, metric in first.items()}
        languages = _languages(data)
        return Scores(
            metrics=metrics,
            groups={"languages": self._by_language(data, languages)} if len(set(languages)) > 1 else {},
            tables={"image_queries": _image_queries(data, retrieved), "text_queries": _text_queries(data, retrieved)},
            figures=galleries.retrieval(data),
            facts={
                "images": len(data.keys),
                "captions": len(data.text_of),
                "distinct_captions": len(data.captions),
            },
        )

    def _by_language(self, data: Embedded, languages: Sequence[str]) -> dict[str, dict[str, Metric]]:
        """The metrics of each language, by its code; the languages in alphabetical order."""
        import numpy as np

        from infra import ranking

        spoken, found = np.asarray(languages), {}
        for language in sorted(set(languages)):
            chosen = spoken == language
            one = ranking.retrieve_among(data.images, data.texts, data.text_of, data.image_of, chosen)
            found[language] = one.metrics(self.recall_at) | one.median_ranks()
        return found


def _languages(data: Embedded) -> list[str]:
    """The language of each caption, "" where the set says none. Raises DataError if a sample names too many or few."""
    import numpy as np

    languages: list[str] = []
    for key, text, captions in zip(
        data.keys, data.metadata, np.bincount(data.image_of, minlength=len(data.keys)).tolist(), strict=True
    ):
        fields = json.loads(text) if text else {}
        named = fields.get("languages", [fields.get("language", "")] * captions)
        if not isinstance(named, list) or not all(isinstance(one, str) for one in named) or len(named) != captions:
            raise DataError(
                f"sample {key!r} of {data.examples.name} does not say what language its captions are in",
                expected=f"a list languages of {captions} codes in its json, or one language",
                found=json.dumps(named, ensure_ascii=False)[:80],
            )
        languages += named
    return languages


def _image_queries(data: Embedded, retrieved: Retrieved) -> Columns:
    """For each image: wrong captions above its best own one, wrong and own ones level with it."""
    return {
        "key": data.keys,
        "better": retrieved.image_better,
        "equal": retrieved.image_equal,
        "right": retrieved.image_right,
    }


def _text_queries(data: Embedded, retrieved: Retrieved) -> Columns:
    """For each caption: wrong images above its own, and level with it."""
    return {
        "key": [data.keys[image] for image in data.image_of],
        "caption": [data.captions[text] for text in data.text_of],
        "better": retrieved.text_better,
        "equal": retrieved.text_equal,
    }
