"""One small run of the quickstart, shared by every test that looks at what a run leaves behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from infra.run.manifest import Artifact

# A twentieth of the demo: enough for every kind of page, far too little to learn much.
SMALL = (
    *("images=160", "samples=1024", "train.checkpoint.every=256", "train.log_every=128", "gate=0.0"),
    "testset.seen_per_class=4",  # these are embedded under nine corruptions, too
)


@dataclass
class Demo:
    """The quickstart below ``root``, run by the command line in a process of its own."""

    root: Path
    port: int

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "workflows.cli", *words, "--root", str(self.root)]

    def settings(self) -> list[str]:
        return [word for setting in (*SMALL, f"port={self.port}") for word in ("--set", setting)]

    def start(self) -> subprocess.Popen[str]:
        env = {**os.environ, "NO_COLOR": "1"}
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            env.pop(name, None)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command("run", "quickstart", *self.settings()), env=env, text=True, **pipes)

    def run(self) -> str:
        process = self.start()
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, f"{out}\n{err}"
        return out

    def manifests(self) -> dict[str, bytes]:
        return {path.parent.parent.name: path.read_bytes() for path in self.root.glob("artifacts/*/*/manifest.json")}

    def artifact(self, stage: str) -> Artifact:
        (folder,) = self.root.glob(f"artifacts/{stage}/*")
        return Artifact.load(str(folder))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def make_demo() -> Callable[[Path], Demo]:
    return lambda root: Demo(root, free_port())


@pytest.fixture(scope="session")
def demo(make_demo, tmp_path_factory) -> Demo:
    """A finished run: the first process of the tests that asks for it runs it, others wait for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo"
    finished, record = make_demo(folder), folder.with_suffix(".json")
    with FileLock(folder.with_suffix(".lock")):
        if not record.exists():
            record.write_text(json.dumps({"output": finished.run(), "port": finished.port}))
    known = json.loads(record.read_text())
    finished.output, finished.port = known["output"], known["port"]
    return finished
