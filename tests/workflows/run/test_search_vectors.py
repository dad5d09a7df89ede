"""Search of a run's vectors: against all cosines by open_clip, on the terminal and as a page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import evaluation_samples as samples
import numpy as np
import open_clip
import pytest
import torch

from evaluation import evaluate
from evaluation.corruptions import Corruptions
from evaluation.tasks import Retrieval, ZeroShot
from infra.errors import UsageError
from infra.formats.testset import EvalSet, decode_image
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from infra.store import LocalStore
from workflows.report.search import render
from workflows.run.look.errors import errors_of
from workflows.run.look.search import embeddings_of, search

CORRUPTIONS = Corruptions(kinds=("jpeg_compression",), severities=(5,), side=32)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with a model, a set of 20 images with captions, one of classes, and the vectors of both."""
    root = tmp_path_factory.mktemp("root")
    files = {
        "train": samples.model_files(),
        "holdout": samples.retrieval_files(),
        "seen": samples.classification_files(),
    }
    made = {}
    for number, (stage, of_stage) in enumerate(files.items()):
        name = f"{number}" * 64
        made[stage] = samples.write_artifact(root / f"artifacts/{stage}/{name[:16]}", of_stage, stage, name)
        made[stage].store.write("manifest.json", made[stage].manifest.to_bytes())
    for stage in ("holdout", "seen"):
        fields = {"corruptions": CORRUPTIONS} if stage == "seen" else {}
        samples.embed_here(root / f"artifacts/embed/{stage}", made["train"], made[stage], stage, **fields)
    return root


@pytest.fixture(scope="module")
def holdout(root):
    return Artifact.load(str(root / "artifacts/embed/holdout"))


@pytest.fixture(scope="module")
def clip(root):
    """All images and captions of the set with captions, and a function from texts or images to vectors."""
    name = f"local-dir:{root}/artifacts/train/{'0' * 16}/data"
    network, preprocess = open_clip.create_model_from_pretrained(name)
    tokenize = open_clip.get_tokenizer(name)

    def vectors(texts=None, images=None):
        with torch.no_grad():
            if texts:
                return network.eval().encode_text(tokenize(texts), normalize=True).numpy()
            return network.eval().encode_image(torch.stack(list(map(preprocess, images))), normalize=True).numpy()

    return vectors, list(EvalSet.open(Artifact.load(str(root / f"artifacts/holdout/{'1' * 16}")), "holdout", "test"))


def test_a_text_finds_the_nearest_images_and_captions(root, holdout, clip):
    vectors, examples = clip
    found = search(LocalStore(root), holdout, "the blue star", 5)
    query = vectors(texts=["the blue star"])[0]
    cosines = vectors(images=[one.image for one in examples]) @ query
    assert [one.cosine for one in found.images] == pytest.approx(np.sort(cosines)[::-1][:5].tolist(), abs=1e-3)
    by_key = {one.key: (cosine, one) for cosine, one in zip(cosines, examples, strict=True)}
    for one in found.images:
        cosine, sample = by_key[one.uid]
        assert one.cosine == pytest.approx(cosine, abs=1e-3) and one.caption == sample.captions[0]
    texts = list(dict.fromkeys(text for one in examples for text in one.captions))
    nearest = dict(zip(texts, vectors(texts=texts) @ query, strict=True))
    assert found.texts[0].caption == "the blue star" and found.texts[0].cosine == pytest.approx(1, abs=1e-3)
    assert len({one.caption for one in found.texts}) == len(found.texts) == 5  # each wording once
    for one in found.texts:
        assert one.cosine == pytest.approx(nearest[one.caption], abs=1e-3)
    assert (found.rows, found.captions) == (20, 39)


def test_an_image_finds_itself(root, holdout, clip, tmp_path):
    _, examples = clip
    examples[7].image.save(tmp_path / "query.png")
    found = search(LocalStore(root), holdout, str(tmp_path / "query.png"), 3)
    assert found.images[0].uid == examples[7].key and found.images[0].cosine == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="module")
def evaluations(root):
    """Both sets evaluated: zero-shot and retrieval, from vectors that lie where their digest says."""
    found = []
    for task in (ZeroShot(dataset="seen"), Retrieval(dataset="holdout")):
        of = root / f"artifacts/embed/{task.dataset}"
        vectors = shutil.copytree(of, root / "artifacts/embed" / Artifact.load(str(of)).manifest.digest[:16])
        embedded = Artifact.load(str(vectors))
        dataset = next(
            Artifact.load(str(path.parent)) for path in root.glob(f"artifacts/{task.dataset}/*/manifest.json")
        )
        config = evaluate.Config(task=task)
        inputs = {"embeddings": embedded.manifest.digest, "dataset": dataset.manifest.digest}
        context = Context(
            root / f"artifacts/evaluate/{task.dataset}",
            stage="evaluate",
            digest="e" * 64,
            identity={"config": config.identity(), "inputs": inputs},
            config=config.resolved(),
        )
        with pytest.MonkeyPatch.context() as patch:
            in_this_process = lambda made, specs, work, limits: [  # noqa: E731
                work(spec, ShardOutput(made.store, name)) for name, spec in specs
            ]
            patch.setattr(evaluate.stage, "run_shards", in_this_process)
            manifest = evaluate.run(config, {"embeddings": embedded, "dataset": dataset}, context)
        found.append(Artifact(context.store, manifest))
    return found


def test_the_worst_errors_are_those_of_all_cosines(root, evaluations, clip):
    vectors, examples = clip
    kinds = {(one.evaluation, one.title.split()[0]): one for one in errors_of(LocalStore(root), evaluations, 4)}
    assert len(kinds) == 3
    surest, by_text, by_image = kinds.values()
    # Of a caption: the images that are nearer to it than its own; of an image, the wrong captions nearer than its best.
    images = vectors(images=[one.image for one in examples])
    texts = [(owner, text) for owner, one in enumerate(examples) for text in one.captions]
    cosines = vectors(texts=[text for _, text in texts]) @ images.T
    above = [int((row > row[owner]).sum()) for row, (owner, _) in zip(cosines, texts, strict=True)]
    shown = [int(one.note.split()[0]) for one in by_text.worst]
    assert shown == pytest.approx(sorted(above, reverse=True)[:4], abs=1)  # vectors are kept as float16
    assert (by_text.queries, by_image.queries) == (39, 20) and len(by_image.worst) == 4
    keys = {one.key: one for one in examples}
    for one in (*by_text.worst, *by_image.worst):
        assert one.right in keys[one.uid].captions
        assert decode_image(one.image, "").tobytes() == keys[one.uid].image.tobytes()
    # Of the classes: the surest of those that are wrong, by the softmax of all scores.
    seen = next(Artifact.load(str(path.parent)) for path in root.glob("artifacts/seen/*/manifest.json"))
    samples_seen = EvalSet.open(seen, "seen", "test")
    prompts = [t.format(c=name) for name in samples_seen.classes for t in samples_seen.templates]
    classes = vectors(texts=prompts).reshape(6, 2, -1).mean(1)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    every = list(samples_seen)
    logits = torch.from_numpy(vectors(images=[one.image for one in every]) @ classes.T / 0.07)
    sure, named = logits.softmax(1).max(1)
    wrong = sorted((float(p) for p, n, one in zip(sure, named, every, strict=True) if n != one.label), reverse=True)
    assert surest.wrong == pytest.approx(len(wrong), abs=1) and surest.queries == 24
    percents = [int(one.note.rpartition(", ")[2].split("%")[0]) for one in surest.worst]
    assert percents == pytest.approx([100 * p for p in wrong[:4]], abs=1)


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_its_images_and_escapes_captions(root, holdout):
    page = Page(render(search(LocalStore(root), holdout, "<b>bold</b>", 20)))
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 20 and all(uri.startswith("data:image/webp;base64,") for uri in images)
    assert "<b>bold</b>" in page.text and "一つの赤い円" in page.text
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}


def test_the_page_shows_errors_below_what_was_found(root, holdout, evaluations):
    errors = errors_of(LocalStore(root), [holdout, *evaluations], 4)
    page = Page(render(search(LocalStore(root), holdout, "a red circle", 5), errors))
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 5 + 3 * 4
    assert "sure" in page.text and "wrong answers come first" in page.text and "Errors of evaluate/" in page.text


def test_a_run_without_errors_or_evaluations_has_none(root, holdout, evaluations):
    assert errors_of(LocalStore(root), [holdout], 4) == []


def test_the_vectors_that_are_searched_are_the_last_or_named(root, holdout):
    seen = Artifact.load(str(root / "artifacts/embed/seen"))
    model = Artifact.load(str(root / f"artifacts/train/{'0' * 16}"))
    assert embeddings_of([holdout, seen, model], None) is seen
    found = search(LocalStore(root), seen, "a red circle", 4)
    assert len(found.images) == 4 and found.texts == ()
    assert found.rows == 24  # the test set's, and not the corrupted copies of them
    with pytest.raises(UsageError, match=r"no image file cta\.JPG"):
        search(LocalStore(root), seen, "cta.JPG", 4)
    with pytest.raises(UsageError, match="no embeddings to search"):
        embeddings_of([model], None)
    with pytest.raises(UsageError, match="no vectors of stage train") as caught:
        embeddings_of([holdout, model], "train")
    assert caught.value.expected == "embed"


def test_the_command_prints_lists_json_and_a_page(root, clipline, tmp_path):
    def call(*words):
        return clipline("search", "embed/holdout", *words, "--root", str(root)).stdout

    lines = call("a red circle", "--most", "3", "--page", str(tmp_path / "found.html")).splitlines()
    assert len(lines) == 2 + 3 + 3 and lines[0].startswith("nearest of 20 images in embed/")
    assert "a red circle" in lines[5]
    assert "data:image/webp" in (tmp_path / "found.html").read_text()
    found = json.loads(call("a red circle", "--most", "3", "--json"))
    assert [one["uid"] for one in found["images"]] == [line.split()[1] for line in lines[1:4]]


def test_pictures_that_cannot_be_shown_are_named(root, holdout):
    found = search(LocalStore(root), holdout, "a", 2)
    broken = type(found)(**{**vars(found), "images": (type(found.images[0])(0.5, "x", "", b"no image"),)})
    assert "no image" in Page(render(broken)).text


@pytest.mark.long  # a process that loads torch
def test_nothing_else_is_said(root):
    command = [sys.executable, "-m", "workflows.cli", "search", "embed/holdout", "a red circle", "--root", str(root)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
