"""Two stages whose attempts can overlap: one exchanges rows, the other has other bytes each time, as a download.

``OVERLAP_DIARY`` names a file that gets a line for each shard worked on, with "again" if it was committed already. The
stage called ``held`` stops in the middle of its third shard until there is a file ``{diary}.go``.
"""

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from infra.cluster import Limits, run_shards
from infra.config import Input, Runtime, StageConfig
from infra.exchange import Exchange
from infra.run.manifest import Funnel
from workflows.stage import Stage, Workflow

SHARDS, RECEIVERS, FREE = 6, 2, 2


class Held(StageConfig):
    held: Runtime[bool] = False
    diary: Runtime[str] = ""


class Sorted(Held):
    produces = ("numbers",)


class Drawn(Held):
    inputs = {"numbers": Input("numbers")}


def begin(config, stage, output):
    again = " again" if output.store.exists(f"ledger/{output.shard}.json") else ""
    with open(config.diary, "a") as diary:
        diary.write(f"{stage}/{output.shard}{again}\n")


def wait(config, number):
    while config.held and number >= FREE and not Path(f"{config.diary}.go").exists():
        time.sleep(0.02)


def read(config, task):
    begin(config, "sorted", task.output)
    numbers = np.random.default_rng(task.number).integers(0, 1000, 100)
    wait(config, task.number)
    task.send("numbers", pa.table({"number": numbers}), to=numbers % RECEIVERS)


def write(config, task):
    begin(config, "sorted", task.output)
    rows = task.receive("numbers", [("number", "ascending")])
    task.output.write(f"data/{task.number}.txt", b"\n".join(b"%d" % number for number in rows["number"].to_pylist()))


def sort(config, inputs, context):
    exchange = Exchange(context, Limits())
    exchange.step("read", range(SHARDS), lambda task: read(config, task), sends={"numbers": RECEIVERS})
    records = exchange.step("write", range(RECEIVERS), lambda task: write(config, task), receives=["numbers"])
    exchange.close()
    return context.finish(records)


def draw(config, inputs, context):
    def one(number, output):
        begin(config, "drawn", output)
        with output.open(f"data/{output.shard}.bin", rows=1) as sink:
            wait(config, number)
            sink.write(os.urandom(1000))
        return output.commit(Funnel("draws", entered=1, kept=1))

    records = run_shards(context, [(f"{number:05d}", number) for number in range(SHARDS)], one, Limits())
    for step in range(1, 6):
        context.metrics({"loss": 1 / step}, step=step)
    return context.finish(records)


def workflow(held: str = "") -> Workflow:
    diary = os.environ["OVERLAP_DIARY"]
    numbers = Stage("sorted", sort, Sorted(held=held == "sorted", diary=diary))
    drawn = Stage("drawn", draw, Drawn(held=held == "drawn", diary=diary), {"numbers": numbers})
    return Workflow("overlap", (numbers, drawn))
