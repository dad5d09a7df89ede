"""A small pipeline for crash points: an img2dataset folder, filtered and sharded, and a model that is not one.

``CRASH_IMAGES`` names the folder. ``CRASH_DIARY`` names a file that gets a line for each shard worked on, with "again"
if it was committed already.
"""

import os
import time

from infra.cluster import Limits, run_shards
from infra.config import Input, Runtime, StageConfig
from infra.events import StageImage
from infra.run.manifest import Funnel
from pipelines import adopt
from pipelines.curate import filter, shard
from pipelines.curate.filter import rules
from workflows.stage import Gate, Stage, Workflow

# A grey pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)


class Learn(StageConfig):
    inputs = {"shards": Input("shards")}
    produces = ("model",)

    pieces: int = 4
    pause_s: Runtime[float] = 0.0  # of each piece
    diary: Runtime[str] = ""


def part(config, index, output):
    again = " again" if output.store.exists(f"ledger/{output.shard}.json") else ""
    with open(config.diary, "a") as diary:
        diary.write(f"learn/{output.shard}{again}\n")
    time.sleep(config.pause_s)
    output.write(f"data/{output.shard}.txt", b"%d\n" % index, rows=1)
    return output.commit(Funnel(unit="parts", entered=1, kept=1))


def learn(config, inputs, context):
    samples = sum(file.rows or 0 for file in inputs["shards"].files("data/", ".tar"))
    work = [(f"{index:05d}", index) for index in range(config.pieces)]
    records = run_shards(context, work, lambda index, output: part(config, index, output), Limits())
    for step in range(1, 6):
        context.metrics({"loss": 1 / step, "learning_rate": step / 10}, step=step)
    context.figure("curve", PNG)
    context.send(StageImage(stage=context.stage, folder=context.store.url, path="figures/curve.png", name="c", step=1))
    context.output.write("data/open_clip_config.json", b"{}")
    context.output.write("data/open_clip_model.safetensors", b"not one")
    return context.finish(records, metrics={"score": 0.5}, facts={"main": "score", "samples": samples})


def workflow(pieces: int = 4, pause_s: float = 0.0) -> Workflow:
    found = Stage("images", adopt.run, adopt.Config(path=os.environ["CRASH_IMAGES"], contents=adopt.Images()))
    filtering = filter.Config(rules=(rules.ImageSide(min=20), rules.TextJunk()))
    kept = Stage("filter", filter.run, filtering, {"images": found})
    shards = Stage("shard", shard.run, shard.Config(samples_per_shard=8), {"images": found, "selection": kept})
    learning = Learn(pieces=pieces, pause_s=pause_s, diary=os.environ["CRASH_DIARY"])
    model = Stage("learn", learn, learning, {"shards": shards})
    return Workflow("crash", (found, kept, shards, model), gate=Gate("learn", "crash", {"learn.score": 0.5}))
