"""What MLflow's pages show of a run: parameters, main metrics, sliders, tables, checkpoints, registered versions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.events import Gate, Metrics, StageImage
from infra.run.manifest import Artifact
from tests.infra.tracking.followed import MODEL, curve

pytestmark = [
    pytest.mark.long,  # a tracking server
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


def parquet(columns) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def test_the_parent_has_parameters_and_one_metric_of_each_stage_that_matters(run, address, client, pages):
    parameters = {"samples": 48000, "train.lr": 0.003, "languages": ["en", "de"], "train.amp@2": True}
    run.begin(parameters=parameters, headline=["train", "zeroshot", "unsaid"])
    run.finish("crawl", metrics={"pages_per_s": 3.0})
    run.finish("train", metrics={"loss": 2.0, "grad_norm": 0.1}, facts={"main": "loss"})
    run.finish("zeroshot", metrics={"acc1": 0.5, "acc1_low": 0.4, "acc": 0.9}, facts={"main": "acc1"})
    run.finish("unsaid", metrics={"acc1": 0.5})
    checks = [{"metric": "unseen.acc5", "at_least": 0.5, "found": 0.25, "passed": False}]
    run.add(Gate, model="train", digest="d" * 64, name="m", alias="champion", checks=checks, passed=False)
    run.end("done")
    run.send(address)
    page = pages()[""]
    assert page.data.params == {
        "samples": "48000",
        "train.lr": "0.003",
        "languages": '["en","de"]',
        "train.amp_at_2": "True",
    }
    assert page.data.metrics == {"train.loss": 2.0, "zeroshot.acc1": 0.5, "unseen.acc5": 0.25}
    assert page.data.tags["gate"] == "failed"
    assert "registered model" not in page.data.tags
    assert "| unseen.acc5 | 0.25 | at least 0.5 | failed |" in page.data.tags["mlflow.note.content"]


def test_a_parameter_that_changes_no_result_may_change(run, address, pages):
    run.begin(parameters={"workers": 2, "lr": 1})
    run.send(address)
    run.begin(parameters={"workers": 8, "lr": 1, "more": "yes"})
    assert run.send(address).refused == 0
    assert pages()[""].data.params == {"workers": "2", "lr": "1", "more": "yes"}


def test_images_have_a_slider_over_steps_and_each_step_once(run, address, client, pages):
    run.begin()
    run.start("train")
    for step in (0, 8, 16):
        out = io.BytesIO()
        Image.new("RGB", (40, 30), (step, 0, 0)).save(out, "PNG")
        run.folder.write(f"images/{step}.png", out.getvalue())
        for name in ("seen errors", "a/b+c: retrieval"):
            run.add(StageImage, stage="train", folder=run.folder.url, path=f"images/{step}.png", name=name, step=step)
    run.send(address)
    run.forget()
    run.send(address)
    page = pages()["train"]
    names = [file.path.removeprefix("images/").split("+") for file in client.list_artifacts(page.info.run_id, "images")]
    found = sorted((parts[0], parts[1], int(parts[2])) for parts in names if parts[-1].endswith(".png"))
    assert found == [(name, "step", step) for name in ("a_b_c_ retrieval", "seen errors") for step in (0, 8, 16)]
    assert len(names) == 12  # each with its small copy for the page
    assert page.data.tags["mlflow.loggedImages"] == "True"


def test_an_image_that_is_gone_or_none_is_reported_and_the_rest_goes_on(run, address, client, pages, caplog):
    run.begin()
    run.start("train")
    run.folder.write("broken.png", b"no image")
    for path in ("gone.png", "broken.png"):
        run.add(StageImage, stage="train", folder=run.folder.url, path=path, name="x", step=1)
    run.finish("train")
    tracker = run.send(address)
    assert tracker.refused == 2
    assert pages()["train"].info.status == "FINISHED"


def test_tables_for_people_are_tables_in_mlflow(tmp_path, run, address, client, pages):
    run.begin()
    write = {
        "data/classes.parquet": parquet({"class": ["cat", "dog"], "recall": [0.5, None]}),
        "data/replicates.parquet": parquet({"acc1": [0.1, 0.2]}),  # for machines, so not in the facts
    }
    run.finish("zeroshot", write=write, facts={"tables": ["classes"]})
    run.send(address)
    run.forget()
    run.send(address)
    page = pages()["zeroshot"].info.run_id
    [file] = client.list_artifacts(page, "tables")
    assert file.path == "tables/classes.json"
    table = json.loads(Path(client.download_artifacts(page, file.path, str(tmp_path))).read_text())
    assert table == {"columns": ["class", "recall"], "data": [["cat", 0.5], ["dog", None]]}
    logged = json.loads(client.get_run(page).data.tags["mlflow.loggedArtifacts"])
    assert logged == [{"path": "tables/classes.json", "type": "table"}]


def test_kept_checkpoints_are_models_with_the_scores_of_their_test_sets(run, address, client, pages):
    run.begin(parameters={"train.lr": 0.1, "other.lr": 0.2})
    tests = run.finish("testset", write={"data/seen/test/0.tar": b"1"})
    kept = [
        {"samples": step, "folder": f"checkpoints/{step:012d}", "scores": {"seen/acc1": step / 100, "captions/r": 0.5}}
        for step in (16, 32)
    ]
    folder = run.root.child("artifacts/train/" + "d" * 16)
    for one in kept:
        for path, content in MODEL.items():
            folder.write(path.replace("data/", f"{one['folder']}/"), content + str(one["samples"]).encode())
        folder.write(f"{one['folder']}/00000.safetensors", b"the optimizer's")
    run.start("train")
    for one in ({"samples": 0, "scores": {"seen/acc1": 0.0, "captions/r": 0.5}}, *kept):
        values = {f"validation/{name}": value for name, value in one["scores"].items()}
        run.add(Metrics, stage="train", values=values, step=one["samples"])
    run.finish("train", write=MODEL, inputs={"tests": tests}, facts={"checkpoints": kept})
    run.send(address)
    run.forget()
    run.send(address)
    found = pages()
    models = {model.name: model for model in client.search_logged_models([found[""].info.experiment_id])}
    assert set(models) == {"train", "train-16", "train-32"}
    digest = Artifact.load(run.root.child(tests)).manifest.content_digest[:12]
    for step in (16, 32):
        model = models[f"train-{step}"]
        scores = {(one.key, one.value, one.step, one.dataset_name, one.dataset_digest) for one in model.metrics}
        assert scores == {
            ("validation/seen/acc1", step / 100, step, "seen", digest),
            ("validation/captions/r", 0.5, step, "captions", digest),
        }
        assert model.params == {"lr": "0.1"}
        names = [file.path for file in client.list_logged_model_artifacts(model.model_id)]
        assert names == ["open_clip_config.json", "open_clip_model.safetensors"]
    for stage in ("", "train"):
        outputs = client.get_run(found[stage].info.run_id).outputs.model_outputs
        assert sorted(one.step for one in outputs) == [0, 16, 32]
    assert curve(client, found["train"], "validation/seen/acc1") == [(0, 0.0), (16, 0.16), (32, 0.32)]
    assert set(found["train"].data.metrics) == {"validation/seen/acc1", "validation/captions/r", "seconds"}


def test_a_registered_version_says_why_it_is_one(run, address, client, pages):
    run.begin()
    run.finish("train", write=MODEL)
    checks = [
        {"metric": "eval.acc1", "at_least": 0.5, "found": 0.75, "passed": True},
        {"metric": "eval.r@1", "found": 0.0, "champion": None, "note": "there is no other", "passed": True},
    ]
    run.add(Gate, model="train", digest="d" * 64, name=run.name, alias="best", checks=checks, passed=True)
    run.send(address)
    version = client.get_model_version_by_alias(run.name, "best")
    parent = pages()[""]
    assert f"runs/{parent.info.run_id}" in version.description
    assert "| eval.acc1 | 0.75 | at least 0.5 | passed |" in version.description
    assert "| eval.r@1 | 0 | better than the best | passed |" in version.description
    assert {key: version.tags[key] for key in ("gate", "eval.acc1", "eval.r_at_1")} == {
        "gate": "passed",
        "eval.acc1": "0.75",
        "eval.r_at_1": "0",
    }
    assert parent.data.tags["registered model"] == f"{run.name} version {version.version}, best"
    assert json.loads(parent.data.tags["clipline.gate"]) == checks
