"""Recipes run as a user runs them, by the command line: in this process, on the Ray cluster that all tests share.

A process and a cluster of its own would cost a run most of its time; tests/e2e has those.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from workflows.cli import app

__all__ = ["QUIET", "clipline", "clipline_alone", "environment", "manifest", "run", "settings"]

# Raised inside Ray and MLflow
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def environment(root: Path) -> dict[str, str]:
    return {
        "CLIPLINE_ROOT": str(root),
        "XDG_CACHE_HOME": str(root.parent / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{root.parent.parent}/mlflow.db",  # one for all: making one takes seconds
        "NO_COLOR": "1",
    }


def clipline(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Call the command line on the results below ``root``; returns what it printed, after checking that it succeeded.

    A command that runs stages needs the fixture ``ray_cluster``.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment(root).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["clipline", *words])
        with pytest.raises(SystemExit) as caught:
            app.main()
    assert not caught.value.code, f"{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(words, 0, out.getvalue(), err.getvalue())


def clipline_alone(root: Path, *words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As :func:`clipline` in a process of its own, in ``folder``: for recipe files whose classes tests define, too."""
    import ray

    env = {**os.environ, **environment(root), "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "workflows.cli", *words]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done


def run(recipe: str, root: Path, call=clipline, **sets: object) -> dict[str, Path]:
    """The folders of the artifacts of a run, by stage."""
    call(root, "run", recipe, *settings(**sets))
    return {path.parent.parent.name: path.parent for path in root.glob("artifacts/*/*/manifest.json")}


def settings(**sets: object) -> list[str]:
    """Words of the command line; ``__`` in a name stands for a dot."""
    return [word for name, value in sets.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())
