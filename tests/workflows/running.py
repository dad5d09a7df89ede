"""Recipes run as a user runs them, by the command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def run(recipe: str, root: Path, **sets: object) -> dict[str, Path]:
    """The folders of the artifacts of a run, by stage."""
    command = [sys.executable, "-m", "workflows.cli", "run", recipe, "--cpus", "2"]
    command += [part for name, value in sets.items() for part in ("--set", f"{name.replace('__', '.')}={value}")]
    env = {**os.environ, "CLIPLINE_ROOT": str(root), "XDG_CACHE_HOME": str(root.parent / "cache")}
    env.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stderr
    return {path.parent.parent.name: path.parent for path in root.glob("artifacts/*/*/manifest.json")}


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())
