"""Choose which examples an evaluation pictures. They are drawn at random, so that they show the model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from evaluation import figures
from evaluation.cues import Cue
from evaluation.embedded import Embedded
from evaluation.figures import Answer, Prediction, Query
from evaluation.groups import Group
from evaluation.questions import Question, moved
from infra.formats.testset import EvalSet
from infra.metrics import Classified
from infra.ranking import top_k

__all__ = ["Logits", "analogies", "associations", "predictions", "retrieval", "selections"]

_PREDICTIONS = 12
_QUERIES, _ANSWERS = 6, 5  # in each retrieval gallery
_SEED = 0


@dataclass(frozen=True)
class Logits:
    """Class scores of images, computed only for the rows that are asked for."""

    features: NDArray[np.float32]  # (n, d), unit rows
    classifier: NDArray[np.float32]  # (classes, d), unit rows
    scale: float

    def __getitem__(self, rows: list[int]) -> NDArray[np.float64]:
        """(len(rows), classes)"""
        scaled = np.float32(self.scale) * self.classifier
        return (self.features[rows] @ scaled.T).astype(np.float64)


def predictions(examples: EvalSet, classified: Classified, logits: Logits) -> bytes:
    """Draw sample predictions as PNG: as many wrong as right ones, if there are enough of both."""
    random = np.random.default_rng(_SEED)
    wrong = random.permutation(np.flatnonzero(classified.rank > 0)).tolist()
    right = random.permutation(np.flatnonzero(classified.rank == 0)).tolist()
    shown_wrong = wrong[: max(_PREDICTIONS // 2, _PREDICTIONS - len(right))]
    shown = [*shown_wrong, *right[: _PREDICTIONS - len(shown_wrong)]]

    images = examples.images(shown)
    probabilities = softmax(logits[shown], axis=1)
    items = [
        Prediction(
            image=images[place],
            truth=examples.classes[classified.labels[place]],
            top=tuple((examples.classes[column], float(row[column])) for column in columns),
        )
        for place, row, columns in zip(shown, probabilities, top_k(probabilities, 3), strict=True)
    ]
    title = (
        f"{len(shown_wrong)} of {len(wrong)} wrong and {len(shown) - len(shown_wrong)} of {len(right)} right, "
        "drawn at random"
    )
    return figures.predictions(items, title)


def retrieval(data: Embedded) -> dict[str, bytes]:
    """Draw both galleries, ``text_to_image`` and ``image_to_text``, as PNG."""
    random = np.random.default_rng(_SEED)
    captions = np.sort(random.permutation(len(data.text_of))[:_QUERIES])
    pictured = np.sort(random.permutation(len(data.keys))[:_QUERIES])

    # The best answers to each query.
    text_of, image_of = data.text_of, data.image_of
    to_image = data.texts[text_of[captions]] @ data.images.T
    to_text = data.images[pictured] @ data.texts.T
    best_images, best_texts = top_k(to_image, _ANSWERS), top_k(to_text, _ANSWERS)
    images = data.examples.images([*best_images.ravel().tolist(), *pictured.tolist()])

    by_text = [
        Query(
            query=data.captions[text_of[caption]],
            answers=tuple(
                Answer(images[int(found)], float(scores[found]), bool(image_of[caption] == found)) for found in best
            ),
        )
        for caption, scores, best in zip(captions, to_image, best_images, strict=True)
    ]
    by_image = [
        Query(
            query=images[int(image)],
            answers=tuple(
                Answer(
                    data.captions[found], float(scores[found]), bool(((text_of == found) & (image_of == image)).any())
                )
                for found in best
            ),
        )
        for image, scores, best in zip(pictured, to_text, best_texts, strict=True)
    ]
    return {
        "text_to_image": figures.text_to_image(
            by_text, f"{len(by_text)} captions drawn at random, and the images they find"
        ),
        "image_to_text": figures.image_to_text(
            by_image, f"{len(by_image)} images drawn at random, and the captions they find"
        ),
    }


def selections(data: Embedded, groups: Sequence[Group], right: NDArray[np.float64]) -> bytes:
    """Draw images with the captions they choose among as PNG: of wrong and of right groups, drawn at random."""
    random = np.random.default_rng(_SEED)
    order = random.permutation(len(groups))
    wrong, good = order[right[order] < 1].tolist(), order[right[order] == 1].tolist()
    most = max(1, _QUERIES // len(groups[0].images))
    shown_wrong = wrong[: max(most // 2, most - len(good))]
    shown = [groups[place] for place in [*shown_wrong, *good[: most - len(shown_wrong)]]]

    images = data.examples.images([image for group in shown for image in group.images])
    queries = []
    for group in shown:
        for image, own in zip(group.images, group.captions, strict=False):
            cosines = data.texts[data.text_of[list(group.captions)]] @ data.images[image]
            answers = [
                Answer(
                    data.captions[data.text_of[group.captions[place]]],
                    float(cosines[place]),
                    group.captions[place] == own,
                )
                for place in np.argsort(-cosines, kind="stable")
            ]
            queries.append(Query(images[image], tuple(answers)))
    return figures.image_to_text(
        queries,
        f"{len(shown_wrong)} of {len(wrong)} wrong and {len(shown) - len(shown_wrong)} of {len(good)} right groups, "
        "drawn at random: images, and their captions by score",
    )


def associations(data: Embedded, cues: Sequence[Cue], scores: Sequence[NDArray[np.float64]]) -> bytes:
    """Draw cues with the candidates most like them as PNG, a cue in each row, drawn at random.

    ``scores``: of each cue's candidates.
    """
    random = np.random.default_rng(_SEED)
    shown = np.sort(random.permutation(len(cues))[:_QUERIES]).tolist()
    best = {place: np.argsort(-scores[place], kind="stable")[:_ANSWERS] for place in shown}
    images = data.examples.images([image for place in shown for image in cues[place].images[best[place]].tolist()])
    queries = []
    for place, found in best.items():
        cue = cues[place]
        lines = zip(cue.images[found].tolist(), scores[place][found].tolist(), cue.right[found].tolist(), strict=True)
        answers = tuple(Answer(images[image], cosine, right) for image, cosine, right in lines)
        text = f"{data.captions[cue.text]} ({cue.right.sum()} of {len(cue.right)} images are right)"
        queries.append(Query(text, answers))
    return figures.text_to_image(queries, f"{len(queries)} cues drawn at random, and the candidates most like them")


def analogies(data: Embedded, questions: Sequence[Question], weight: np.float32) -> bytes:
    """Draw what images with another word find as PNG, a question in each row, drawn at random."""
    random = np.random.default_rng(_SEED)
    asked, found = [], []
    for place in np.sort(random.permutation(len(questions))[:_QUERIES]).tolist():
        question = questions[place]
        one = int(random.integers(len(question.images)))
        query = moved(data, question, weight)[one]
        cosines = data.images @ (query / np.linalg.norm(query))
        cosines[question.images[one]] = -np.inf
        (best,) = top_k(cosines[None], _ANSWERS)
        words = [data.captions[value] for value in question.values]
        text = f"image of: {' '.join(words)}\n- {words[question.attribute]} + {data.captions[question.word]}"
        asked.append((text, cosines, set(question.answers.tolist())))
        found.append(best.tolist())
    images = data.examples.images([image for best in found for image in best])
    queries = [
        Query(text, tuple(Answer(images[image], float(cosines[image]), image in answers) for image in best))
        for (text, cosines, answers), best in zip(asked, found, strict=True)
    ]
    return figures.text_to_image(queries, f"{len(queries)} questions drawn at random, and the images they find")
