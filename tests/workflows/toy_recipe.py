"""A small workflow for tests of the engine: two sources, a join, and a diary of all work done.

``TOY_DIARY`` names a file that gets a line per shard worked on. ``TOY_CRASH_AT=n`` kills the driver with SIGKILL at its
n-th durable write, before it if n is odd, after it if even.
"""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from infra.cluster import Limits, run_shards
from infra.config import Input, Runtime, StageConfig
from infra.errors import DataError, TransientError
from infra.events import StageFile
from infra.run.manifest import Funnel
from infra.store import LocalStore
from workflows.stage import Gate, Stage, Workflow


class Make(StageConfig):
    produces = ("lines",)

    name: str = Field("a", description="Written into every shard.")
    shards: int = Field(3, description="Number of shards.")
    pause_s: Runtime[float] = Field(0.0, description="Seconds each shard takes.")
    held: Runtime[bool] = Field(False, description="Shards but the first wait for a file, the diary's name and `.go`.")
    trouble: Runtime[str] = Field("", description="What goes wrong, the first time or always.")
    diary: Runtime[str] = Field("", description="File that gets a line per shard worked on.")


class Join(StageConfig):
    inputs = {"left": Input("lines"), "right": Input("lines")}


def once(diary: str, what: str) -> bool:
    """True the first time it is asked, over all processes."""
    try:
        Path(f"{diary}.{what}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def shard(spec, output):
    index, config = spec
    with open(config.diary, "a") as diary:
        diary.write(f"{config.name}/{output.shard}\n")
    time.sleep(config.pause_s)
    while config.held and index and not Path(f"{config.diary}.go").exists():
        time.sleep(0.02)
    if config.trouble == "worker dies" and index == 1 and once(config.diary, "died"):
        os.kill(os.getpid(), signal.SIGKILL)
    if config.trouble == "bad data":
        raise DataError("this shard is bad", found="nonsense")
    output.write(f"data/{output.shard}.txt", f"{config.name} {index}\n".encode() * (index + 1), rows=index + 1)
    return output.commit(Funnel(unit="lines", entered=10, kept=index + 1, dropped={"odd": 9 - index}))


def make(config, inputs, context):
    if config.trouble == "first attempt fails" and once(config.diary, "failed"):
        raise TransientError("not today")
    if config.trouble == "first attempt fails late" and once(config.diary, "failed"):
        while not Path(f"{config.diary}.go").exists():
            time.sleep(0.02)
        raise TransientError("not now")
    if config.trouble == "hangs" and once(config.diary, "hung"):
        time.sleep(3600)
    shards = [(f"{index:05d}", (index, config)) for index in range(config.shards)]
    if config.trouble == "nothing to show":
        context.send(StageFile(stage=context.stage, folder=context.store.url, path="not-there.png"))
    records = run_shards(context, shards, shard, Limits())
    context.metrics({"loss": 1.0}, step=1)
    context.metrics({"loss": 0.5}, step=2)
    return context.finish(records, metrics={"score": 0.5, "score_low": 0.4, "score_high": 0.6})


def join(config, inputs, context):
    text = b"".join(inputs[name].read(file.path) for name in sorted(inputs) for file in inputs[name].files("data/"))
    context.output.write("data/all.txt", text)
    return context.finish(metrics={"bytes": float(len(text))})


@contextmanager
def talkative():
    print("a service is up")  # noqa: T201 - as MLflow's client and many others do
    yield


def workflow(shards: int = 3, pause_s: float = 0.0, trouble: str = "", timeout_s: float | None = None) -> Workflow:
    diary = os.environ.get("TOY_DIARY", os.devnull)
    left = Stage(
        "left",
        make,
        Make(name="left", shards=shards, pause_s=pause_s, trouble=trouble, diary=diary),
        timeout_s=timeout_s,
    )
    right = Stage("right", make, Make(name="right", shards=2, pause_s=pause_s, diary=diary))
    both = Stage("both", join, Join(), inputs={"left": left, "right": right})
    gate = Gate("both", "toy-model", {"left.score": 0.5})
    return Workflow("toy", (left, right, both), services=(talkative,), gate=gate)


def _crash_at(number: int) -> None:
    """Kill this process at its ``number``-th durable write."""
    count = 0

    def durable(original):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count == number and number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for name in ("create", "append", "delete"):
        setattr(LocalStore, name, durable(getattr(LocalStore, name)))
    publish = LocalStore.publish

    @contextmanager
    def crashing_publish(self, path):
        nonlocal count
        count += 1
        if count == number and number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        with publish(self, path) as out:
            yield out
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    LocalStore.publish = crashing_publish


if "TOY_CRASH_AT" in os.environ:
    _crash_at(int(os.environ["TOY_CRASH_AT"]))
