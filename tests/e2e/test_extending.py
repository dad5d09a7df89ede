"""The package and the recipe of docs/extending.md, installed beside clipline: no file of ours is changed."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from infra.formats.shards import TarWriter

pytestmark = pytest.mark.ray

PAGE = Path(__file__).parents[2] / "docs/extending.md"
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
COLOURS = {"red": (0, 0, 200), "green": (0, 160, 0), "blue": (200, 0, 0)}


def write_tar(path, samples):
    path.parent.mkdir(parents=True)
    sink = io.BytesIO()
    with TarWriter(sink) as out:
        for number, (colour, extension, text) in enumerate(samples):
            image = np.full((24, 24, 3), COLOURS[colour], np.uint8)
            out.add(f"{number:04d}.png", cv2.imencode(".png", image)[1].tobytes())
            out.add(f"{number:04d}.{extension}", text.encode())
    path.write_bytes(sink.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data, the recipe, and the package as pip would leave it in ``site``."""
    folder = tmp_path_factory.mktemp("extending")
    package, recipe = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (entry,) = re.findall(r"```toml\n.*?\n(.*?)```", PAGE.read_text(), re.DOTALL)
    metadata = folder / "site/my_clip-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "site/my_clip.py").write_text(package)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-clip\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[clipline.extensions]\n" + entry.replace('"', ""))
    (folder / "counted.py").write_text(recipe)
    names = list(COLOURS)
    write_tar(
        folder / "shards/00000.tar", [(names[number % 3], "txt", f"a {names[number % 3]} one") for number in range(48)]
    )
    write_tar(folder / "tests/colours/test/0.tar", [(names[number % 3], "cls", str(number % 3)) for number in range(9)])
    for name, text in {"test/nshards": "1", "classnames": "\n".join(names)}.items():
        (folder / f"tests/colours/{name}.txt").write_text(text)
    (folder / "tests/colours/zeroshot_classification_templates.txt").write_text("a {c} square")
    return folder


def clipline(folder, *arguments):
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CLIPLINE_ROOT": str(folder / "root")}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "workflows.cli", *arguments]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_package_and_a_recipe_run_beside_clipline(folder):
    values = {"shards": folder / "shards", "tests": folder / "tests", "dataset": "colours", "model": json.dumps(MODEL)}
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    clipline(folder, "run", "counted.py", "--cpus", "2", *sets, "--set", "train.objective.smoothing=0.25")

    def manifest(stage):
        (path,) = folder.glob(f"root/artifacts/{stage}/*/manifest.json")
        return json.loads(path.read_text())

    assert manifest("count")["facts"] == {"samples": 48}
    assert manifest("train")["config"]["objective"] == {"kind": "smoothed", "smoothing": 0.25}
    assert 0 <= manifest("spread")["metrics"]["spread"] <= 2
    # A package's members are listed with ours, and its rule is chosen by name.
    assert "smoothing" in clipline(folder, "fields", "train")
    listed = clipline(folder, "fields", "filter")
    assert "text_junk" in listed
    assert "quiet" in listed
    plan = clipline(folder, "plan", "curate", "--set", f"images={folder / 'shards'}", "--set", 'filter.rules=["quiet"]')
    assert "filter" in plan
