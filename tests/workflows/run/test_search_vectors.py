"""Search of a run's vectors: against all cosines by open_clip, on the terminal and as a page."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser

import evaluation_samples as samples
import numpy as np
import open_clip
import pytest
import torch

from infra.errors import UsageError
from infra.formats.testset import EvalSet
from infra.run.manifest import Artifact
from infra.store import LocalStore
from workflows.cli import app as cli
from workflows.report.search import render
from workflows.run.search import embeddings_of, search


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
        samples.embed_here(root / f"artifacts/embed/{stage}", made["train"], made[stage], stage)
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


def test_the_vectors_that_are_searched_are_the_last_or_named(root, holdout):
    seen = Artifact.load(str(root / "artifacts/embed/seen"))
    model = Artifact.load(str(root / f"artifacts/train/{'0' * 16}"))
    assert embeddings_of([holdout, seen, model], None) is seen
    found = search(LocalStore(root), seen, "a red circle", 4)
    assert len(found.images) == 4 and found.texts == ()
    with pytest.raises(UsageError, match="no embeddings to search"):
        embeddings_of([model], None)
    with pytest.raises(UsageError, match="no vectors of stage train") as caught:
        embeddings_of([holdout, model], "train")
    assert caught.value.expected == "embed"


def test_the_command_prints_lists_json_and_a_page(root, monkeypatch, capsys, tmp_path):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["clipline", "search", "embed/holdout", *words, "--root", str(root)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        assert not caught.value.code, out + err
        return out

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
