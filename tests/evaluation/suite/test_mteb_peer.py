"""The results that a suite writes open in mteb's own loader, with every score where mteb looks for it."""

from __future__ import annotations

import json

import pytest

from evaluation.suite import Suite
from evaluation.suite.mteb import _language, task_result
from infra.run.manifest import Artifact, Manifest

METRICS = {
    "mean_recall_at_1": 0.25,
    "mean_recall_at_1_low": 0.2,
    "mean_recall_at_1_high": 0.3,
    "other": 0.5,
}


def test_mteb_reads_what_a_suite_writes(tmp_path):
    results = pytest.importorskip("mteb.results", reason="mteb is not installed (330 MB with what it needs)")
    suite = Suite(name="mine", sets={"vtab/flickr30k": {"task": "zeroshot_retrieval", "split": "val"}})
    task = {"kind": "zeroshot_retrieval", "dataset": "wds_vtab-flickr30k_val", "split": "val", "language": "de"}
    identity = {"inputs": {"dataset": "d" * 64}}
    manifest = Manifest(stage="e", digest="e" * 64, identity=identity, config={"task": task}, metrics=METRICS)
    entry = suite.sets["vtab/flickr30k"]
    folders = suite.folders("vtab/flickr30k")
    written = task_result("vtab/flickr30k", entry, folders, [Artifact(str(tmp_path), manifest)])
    path = tmp_path / "vtab_flickr30k.json"
    path.write_text(json.dumps(written, indent=2))

    found = results.TaskResult.from_disk(path)
    assert (found.task_name, found.dataset_revision) == ("vtab/flickr30k", "d" * 40)
    (scores,) = found.scores["val"]
    assert (scores["main_score"], scores["mean_recall_at_1"], scores["other"]) == (0.25, 0.25, 0.5)
    assert (scores["hf_subset"], scores["languages"]) == ("default", ["deu-Latn"])
    assert found.get_score(splits=["val"]) == found.get_score(splits=["val"], languages=["deu-Latn"]) == 0.25
    again = results.TaskResult.model_validate(json.loads(found.model_dump_json()))
    assert again.scores == found.scores


@pytest.mark.parametrize(
    ("code", "theirs"),
    [("en", "eng-Latn"), ("zh", "zho-Hans"), ("pt-BR", "por-Latn"), ("sr", "srp-Cyrl"), ("th", "tha-Thai"), ("?", "?")],
)
def test_languages_are_named_as_mteb_names_them(code, theirs):
    assert _language(code) == theirs
