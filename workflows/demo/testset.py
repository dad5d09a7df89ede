"""Labelled test sets of scenes the embedded site never shows, in CLIP_benchmark's WebDataset layout.

- ``seen``: new images of the thirty pairs of colour and shape that training images show; on request a split ``train``
  of them, for probes and neighbours
- ``unseen``: images of the other six, classified among all thirty-six: does the model compose what it learned?
- ``captions``: retrieval, five captions an image that name every attribute, no two images alike in all of them
- ``compositions``: pairs of images whose captions hold the same words (Winoground's form), see ``compositions.py``
- ``analogies``: images of single shapes with the words for colour and shape
- ``choices``: the same images, each with its own caption and the other one (SugarCrepe's form)
- ``vqa`` and ``entailment``, on request: questions and statements about images, see ``questions.py``. Their split
  ``unseen`` shows pairs of colour and shape that training never does; ``train`` is to learn from, as shards, too
- ``reasons``, on request: questions with four answers and four reasons each (VCR's form), see ``reasons.py``
- ``regions``, on request: pairs as of ``compositions``, as a detector's regions with captions and without pixels, see
  ``regions.py``; a split ``train`` to learn from, and ``test`` for retrieval. All images of several shapes in the other
  sets then have their regions beside the pixels
- ``pairs``, on request: statements about two images, which lie side by side in one, see ``pairs.py``; the same splits
- ``boxes``, on request: images of two shapes, a phrase and a box for each: where is the red circle?
- ``word_pairs`` and ``word_analogies``, on request: words of captions alone, no images, see ``words.py``
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import Field

from infra.config import StageConfig
from infra.formats.shards import TarWriter
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from workflows.demo.compositions import CATEGORIES, Composition, pair
from workflows.demo.pairs import KINDS, Compared, compare
from workflows.demo.questions import QUESTIONS, STATEMENTS, ask
from workflows.demo.reasons import Reasoned, reason
from workflows.demo.scenes import COMBINATIONS, SEEN, UNSEEN, Scene, compose, full_captions, label, name
from workflows.demo.website import TEST_SEEDS
from workflows.demo.words import analogies, rated_pairs

if TYPE_CHECKING:
    from infra.run.context import Output

T = TypeVar("T")

__all__ = ["TEMPLATES", "Config", "distinct", "examples", "run"]

TEMPLATES = (
    "a {c}",
    "a picture of a {c}",
    "this is a {c}",
    "a drawing of one {c}",
    "a small {c} on a grey background",
    "a large {c} in the middle",
    "a {c} on a cream background",
)


class Config(StageConfig):
    code_version: ClassVar[int] = 4
    produces: ClassVar[tuple[str, ...]] = ("testsets",)

    seen_per_class: int = Field(20, gt=0, description="test images of each class that training shows")
    seen_to_learn: int = Field(
        0, ge=0, description="images of each of these classes in a split `train`; 0: no such split"
    )
    unseen_per_class: int = Field(40, gt=0, description="test images of each class that training never shows")
    captioned: int = Field(200, gt=0, description="images of the retrieval set")
    analogies: int = Field(4, gt=0, description="images of each class that training shows, to ask for by analogy")
    compositions: int = Field(30, gt=0, description="pairs of images in each category of compositions")
    questions: int = Field(
        0, ge=0, description="groups of images of each kind of question in the splits test and unseen; 0: no such sets"
    )
    questions_to_learn: int = Field(0, ge=0, description="groups of images of each kind of question to learn from")
    boxes: int = Field(0, ge=0, description="images of two shapes with the box of each; 0: no such set")
    words: bool = Field(False, description="sets of words without images, rated pairs and analogies, too")
    regions: int = Field(
        0, ge=0, description="pairs of images in each category of compositions as regions to learn from; 0: no regions"
    )
    image_size: int = Field(128, ge=32, description="side of an image, pixels")


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Write the sets; takes seconds, so there is nothing to resume."""
    names = {"seen": SEEN, "unseen": COMBINATIONS}
    scenes = {
        "seen": examples(SEEN, config.seen_per_class, TEST_SEEDS),
        "unseen": examples(UNSEEN, config.unseen_per_class, 2 * TEST_SEEDS),
    }
    for set_name, classes in names.items():
        classnames = [name(*pair) for pair in classes]
        context.output.write(f"data/{set_name}/classnames.txt", _lines(classnames))
        context.output.write(f"data/{set_name}/zeroshot_classification_templates.txt", _lines(TEMPLATES))
        _write(context.output, set_name, _labelled(scenes[set_name], classnames), len(scenes[set_name]), config)
        context.check()
    context.output.write("data/captions/dataset_type.txt", b"retrieval\n")
    captioned = distinct(config.captioned, 3 * TEST_SEEDS)
    samples = ((scene, {"txt": "\n".join(full_captions(scene))}) for scene in captioned)
    _write(context.output, "captions", samples, len(captioned), config)
    counts = {set_name: len(found) for set_name, found in {**scenes, "captions": captioned}.items()}
    shown = examples(SEEN, config.analogies, 5 * TEST_SEEDS)
    counts["analogies"] = len(shown)
    context.output.write("data/analogies/dataset_type.txt", b"analogies\n")
    attributes = json.dumps({"attributes": ["colour", "shape"]})
    samples = ((scene, {"txt": f"{scene.colour}\n{scene.shape}", "json": attributes}) for scene in shown)
    _write(context.output, "analogies", samples, len(shown), config)
    for set_name, composed in (("compositions", _in_pairs(config)), ("choices", _one_by_one(config))):
        counts[set_name] = 2 * config.compositions * len(CATEGORIES)
        context.output.write(f"data/{set_name}/dataset_type.txt", b"image_caption_selection\n")
        _write(context.output, set_name, composed, counts[set_name], config)
        context.check()
    if config.seen_to_learn:
        learnt = examples(SEEN, config.seen_to_learn, 10 * TEST_SEEDS)
        counts["seen/train"] = len(learnt)
        _write(context.output, "seen", _labelled(learnt, [name(*pair) for pair in SEEN]), len(learnt), config, "train")
    if config.questions:
        counts |= _write_questions(config, context)
    if config.boxes:
        counts["boxes"] = config.boxes
        context.output.write("data/boxes/dataset_type.txt", b"localisation\n")
        _write(context.output, "boxes", _boxed(config), config.boxes, config)
    if config.words:
        _write_words(context.output)
    if config.regions:
        counts |= _write_regions(config, context)
    return context.finish(facts={"images": counts})


def _write_questions(config: Config, context: Context) -> dict[str, int]:
    """Write the sets of questions and statements, and return how many images each split has."""
    counts = {}
    for set_name, kinds in (("vqa", QUESTIONS), ("entailment", STATEMENTS)):
        context.output.write(f"data/{set_name}/dataset_type.txt", b"visual_question_answering\n")
        for split in ("test", "unseen", "train"):
            asked = _in_groups(ask, tuple(kinds), split, config)
            counts[f"{set_name}/{split}"] = len(asked)
            told = ((one.image, _told(kind, (one.image.caption,), (one.answer,), one.fresh)) for kind, one in asked)
            _write(context.output, set_name, told, len(asked), config, split)
            context.check()
    context.output.write("data/reasons/dataset_type.txt", b"multiple_choice\n")
    for split in ("test", "unseen"):
        reasoned = [one for _, one in _in_groups(_reasons, ("reason",), split, config)]
        counts[f"reasons/{split}"] = len(reasoned)
        _write(context.output, "reasons", map(_choices, reasoned), len(reasoned), config, split)
        context.check()
    context.output.write("data/pairs/dataset_type.txt", b"visual_question_answering\n")
    for split in ("test", "unseen", "train"):
        compared = _in_groups(compare, tuple(KINDS), split, config)
        counts[f"pairs/{split}"] = len(compared)
        stated = ((one, _told(kind, one.statements, one.answers, one.fresh)) for kind, one in compared)
        _write(context.output, "pairs", stated, len(compared), config, split)
        context.check()
    return counts


def _write_words(output: Output) -> None:
    """Write the sets of words, in the forms in which such sets are published."""
    rated = (f"{one},{other},{attribute},{rating:g}" for one, other, attribute, rating in rated_pairs())
    output.write("data/word_pairs/word_similarity.csv", _lines(("word1,word2,category,rating", *rated)))
    asked = (("\t".join(question) for question in questions) for questions in analogies().values())
    sections = ((f": {section}", *lines) for section, lines in zip(analogies(), asked, strict=True))
    output.write("data/word_analogies/word_analogies.txt", _lines(chain(*sections)))


def _write_regions(config: Config, context: Context) -> dict[str, int]:
    """Write the set of regions with captions, without pixels, and return how many images each split has."""
    from workflows.demo import regions

    counts = {}
    context.output.write("data/regions/dataset_type.txt", b"retrieval\n")
    for split, pairs, first in (("train", config.regions, 8), ("test", config.compositions, 4)):
        images = [
            one
            for number in range(pairs)
            for category in CATEGORIES
            for one in pair(category, first * TEST_SEEDS + number)
        ]
        counts[f"regions/{split}"] = len(images)
        context.output.write(f"data/regions/{split}/nshards.txt", b"1\n")
        with context.output.open(f"data/regions/{split}/0.tar", rows=len(images)) as sink, TarWriter(sink) as tar:
            for number, image in enumerate(images):
                for extension, data in regions.members(image).items():
                    tar.add(f"{number:06d}.{extension}", data)
                tar.add(f"{number:06d}.txt", image.caption.encode())
    return counts


def examples(classes: tuple[tuple[str, str], ...], per_class: int, first_seed: int) -> list[Scene]:
    """``per_class`` scenes of each class, interleaved, so that every prefix is balanced too."""
    return [compose(first_seed + n, (classes[n % len(classes)],)) for n in range(per_class * len(classes))]


def distinct(number: int, first_seed: int) -> list[Scene]:
    """``number`` scenes of which no two share all six attributes: every full caption has one correct image."""

    def fresh() -> Iterator[Scene]:
        taken = set()
        for scene in (compose(seed) for seed in count(first_seed)):
            attributes = (scene.shape, scene.colour, scene.size, scene.texture, scene.position, scene.background)
            if attributes not in taken:
                taken.add(attributes)
                yield scene

    return list(islice(fresh(), number))


def _labelled(scenes: Sequence[Scene], classnames: Sequence[str]) -> Iterator[tuple[Scene, dict[str, str]]]:
    """Each scene with the number of its class."""
    return ((scene, {"cls": str(classnames.index(label(scene)))}) for scene in scenes)


def _pairs(config: Config) -> Iterator[tuple[str, str, tuple[Composition, Composition]]]:
    """Name, category and images of each pair, the categories in turn."""
    for number in range(config.compositions):
        for category in CATEGORIES:
            yield f"{category} {number}", category, pair(category, 4 * TEST_SEEDS + number)


def _in_pairs(config: Config) -> Iterator[tuple[Composition, dict[str, str]]]:
    """Winoground's form: an image has its caption, and the json says which two images are a group."""
    for group, category, both in _pairs(config):
        for one in both:
            yield one, {"txt": one.caption, "json": json.dumps({"group": group, "category": category})}


def _one_by_one(config: Config) -> Iterator[tuple[Composition, dict[str, str]]]:
    """SugarCrepe's form: an image has its caption, then the wrong one."""
    for _, category, both in _pairs(config):
        for one, other in (both, both[::-1]):
            yield one, {"txt": f"{one.caption}\n{other.caption}", "json": json.dumps({"category": category})}


def _boxed(config: Config) -> Iterator[tuple[Composition, dict[str, str]]]:
    """The form of localisation: a phrase a line, and the box of what it names."""
    from workflows.demo import drawing

    for number in range(config.boxes):
        shown, _ = pair("attribute", 9 * TEST_SEEDS + number)
        phrases = [f"a {name(item.shape, item.colour)}" for item in shown.items]
        yield shown, {"txt": "\n".join(phrases), "json": json.dumps({"boxes": drawing.boxes(shown, config.image_size)})}


def _in_groups(
    make: Callable[..., tuple[T, ...]], kinds: Sequence[str], split: str, config: Config
) -> list[tuple[str, T]]:
    """Every image of a split with its kind of question or statement, the kinds in turn."""
    groups = config.questions_to_learn if split == "train" else config.questions
    first = {"test": 6, "unseen": 6, "train": 7}[split] * TEST_SEEDS
    return [
        (kind, one)
        for number in range(groups)
        for kind in kinds
        for one in make(kind, first + number, unseen=split == "unseen")
    ]


def _reasons(kind: str, number: int, *, unseen: bool) -> tuple[Reasoned, ...]:
    return reason(number, unseen=unseen)


def _choices(one: Reasoned) -> tuple[Composition, dict[str, str]]:
    """The form of multiple choice in steps: a line for each choice."""
    steps = {"answer": len(one.answers), "rationale": len(one.reasons)}
    fields = {"steps": steps, "fresh": one.fresh}
    return one.image, {"txt": "\n".join((*one.answers, *one.reasons)), "json": json.dumps(fields)}


def _told(kind: str, questions: Sequence[str], answers: Sequence[str], fresh: bool) -> dict[str, str]:
    """The form of questions: a line of txt and an answer each; ``text`` has both, as the objective vqa learns them."""
    texts = [f"{question} {answer}" for question, answer in zip(questions, answers, strict=True)]
    fields = {"answers": answers, "category": kind, "fresh": fresh, "text": texts}
    return {"txt": "\n".join(questions), "json": json.dumps(fields)}


def _write(
    output: Output,
    set_name: str,
    samples: Iterable[tuple[Scene | Composition | Compared, Mapping[str, str]]],
    total: int,
    config: Config,
    split: str = "test",
) -> None:
    """One shard of a set: each image with what is said of it, by extension, and its regions if they are asked for."""
    from workflows.demo import drawing, images, regions

    side = config.image_size

    output.write(f"data/{set_name}/{split}/nshards.txt", b"1\n")
    with output.open(f"data/{set_name}/{split}/0.tar", rows=total) as sink, TarWriter(sink) as tar:
        for number, (scene, texts) in enumerate(samples):
            for extension, text in texts.items():
                tar.add(f"{number:06d}.{extension}", text.encode())
            if config.regions and not isinstance(scene, Scene):
                for extension, data in regions.members(scene).items():
                    tar.add(f"{number:06d}.{extension}", data)
            if isinstance(scene, Scene):
                pixels = drawing.render(scene, side)
            elif isinstance(scene, Compared):
                pixels = drawing.render_side_by_side((scene.left, scene.right), side)
            else:
                pixels = drawing.render_composition(scene, side)
            tar.add(f"{number:06d}.jpg", images.encode(pixels, "jpeg"))


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()
