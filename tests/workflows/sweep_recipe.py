"""sweep_recipe: data, a training and its evaluation, as small as sweeps can be tested with.

``SWEEP_DIARY`` names a file that gets a line when a stage begins, and one when it ends.
"""

import json
import os
import time

from pydantic import Field

from infra.config import Input, Runtime, StageConfig
from infra.errors import DataError
from workflows.stage import Stage, Workflow


class Noted(StageConfig):
    diary: Runtime[str] = Field(os.devnull, description="File that gets the lines.")


class Data(Noted):
    produces = ("lines",)

    name: str = Field("a", description="What is written.")
    pause_s: Runtime[float] = Field(0.0, description="Seconds it takes.")


class Train(Noted):
    inputs = {"data": Input("lines")}
    produces = ("model",)

    lr: float = Field(0.1, description="Learning rate.")
    seed: int = Field(0, description="Seed.")
    pause_s: Runtime[float] = Field(0.0, description="Seconds it takes.")
    held: Runtime[bool] = Field(False, description="It ends when the run is asked to stop.")


class Evaluate(Noted):
    inputs = {"dataset": Input("lines"), "model": Input("model")}

    task: dict[str, str] = Field({"kind": "zeroshot_classification", "dataset": "seen"}, description="What is asked.")
    bootstrap: int = Field(1000, description="Resamples.")
    seed: int = Field(0, description="Seed of the resamples.")


def note(config, context, word):
    with open(config.diary, "a") as diary:
        diary.write(f"{word} {context.stage}/{context.digest[:6]} {time.monotonic()}\n")


def data(config, inputs, context):
    note(config, context, "begin")
    time.sleep(config.pause_s)
    context.output.write("data/lines.txt", config.name.encode())
    note(config, context, "end")
    return context.finish()


def train(config, inputs, context):
    note(config, context, "begin")
    if config.lr > 9:
        raise DataError("the loss is no number", found=f"lr {config.lr}")
    time.sleep(config.pause_s)
    while config.held and not context.stopping:
        time.sleep(0.02)
    context.output.write("data/model.json", json.dumps({"lr": config.lr, "seed": config.seed}).encode())
    note(config, context, "end")
    return context.finish()


def evaluate(config, inputs, context):
    """500 images, of which a model of the better rate gets 450 right, of the other 350; a seed is worth one image."""
    import numpy as np
    import pyarrow as pa

    note(config, context, "begin")
    model = json.loads(inputs["model"].read("data/model.json"))
    right = (450 if model["lr"] > 0.5 else 350) + model["seed"]
    hits = np.arange(500) < right
    draws = np.random.default_rng(config.seed).integers(0, 500, (config.bootstrap, 500))
    accuracy = right / 500
    names = {"model": "toy", "pretrained": f"train-{inputs['model'].manifest.digest[:12]}"}
    result = {**names, "metrics": {"acc1": accuracy}, "intervals": {"method": {"acc1": "Wilson"}}}
    context.output.write("data/result.json", json.dumps(result).encode())
    context.output.write_table("data/resampled.parquet", pa.table({"acc1": hits[draws].mean(axis=1)}))
    note(config, context, "end")
    return context.finish(metrics={"acc1": accuracy}, facts={"examples": 500})


def workflow(lr: float = 0.1, name: str = "a", seed: int = 0, pause_s: float = 0.0) -> Workflow:
    diary = os.environ.get("SWEEP_DIARY", os.devnull)
    lines = Stage("data", data, Data(name=name, pause_s=pause_s, diary=diary))
    trained = Stage("train", train, Train(lr=lr, seed=seed, pause_s=pause_s, diary=diary), {"data": lines})
    scored = Stage("zeroshot", evaluate, Evaluate(diary=diary), {"dataset": lines, "model": trained})
    return Workflow("toy-sweep", (lines, trained, scored))
