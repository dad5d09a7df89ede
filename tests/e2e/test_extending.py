"""The package of docs/extending.md, built and installed beside a wheel of clipline, outside the tree."""

import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

from infra.formats.shards import TarWriter

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/extending.md").read_text()
# The name of each example's file stands in the paragraph before it.
FILES = re.findall(r"`([\w/]+\.(?:py|toml))`(?:(?!\n\n).)*\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
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


def build(tree, folder):
    """The wheel of a project, by its build backend, without looking for anything elsewhere."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside the tree with data, and an environment with wheels of clipline and of the package.

    What clipline depends on is there from the environment that runs the tests, but clipline is not.
    """
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES:
        (folder / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "project" / name).write_text(text)
    build(REPOSITORY, folder / "wheels")
    build(folder / "project", folder / "wheels")
    venv.create(folder / "venv", symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder / "venv")}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--offline", "--no-deps", "--compile-bytecode"]
    wheels = sorted(map(str, (folder / "wheels").glob("*.whl")))
    assert len(wheels) == 2
    subprocess.run([*uv, "--python", str(folder / "venv/bin/python"), *wheels], check=True, capture_output=True)

    names = list(COLOURS)
    write_tar(
        folder / "team/shards/00000.tar",
        [(names[number % 3], "txt", f"a {names[number % 3]} one") for number in range(48)],
    )
    tests = folder / "team/tests/colours"
    write_tar(tests / "test/0.tar", [(names[number % 3], "cls", str(number % 3)) for number in range(9)])
    for name, text in {"test/nshards": "1", "classnames": "\n".join(names)}.items():
        (tests / f"{name}.txt").write_text(text)
    (tests / "zeroshot_classification_templates.txt").write_text("a {c} square")
    return folder


def run(folder, program, *arguments):
    env = {**os.environ, "TEAM_FOLDER": str(folder / "team"), "CLIPLINE_ROOT": str(folder / "root")}
    for name in ("PYTHONPATH", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        env.pop(name, None)
    command = [str(folder / "venv/bin" / program), *arguments]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_environment_has_nothing_of_the_tree(folder):
    code = "import infra, my_clip, sys; print(infra.__file__, my_clip.__file__, *sys.path, sep='\\n')"
    paths = run(folder, "python", "-c", code).splitlines()
    assert all(path.startswith(str(folder / "venv")) for path in paths[:2])
    assert str(REPOSITORY) not in paths


def test_a_package_with_a_recipe_runs_beside_clipline(folder):
    values = {
        "shards": "team://shards", "tests": "team://tests", "dataset": "colours", "model": json.dumps(MODEL),
        "train.objective.smoothing": "0.25", "train.cluster.workers": "2",
    }  # fmt: skip
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    run(folder, "clipline", "run", "my_clip.counted", "--cpus", "2", *sets)

    def manifest(stage):
        (path,) = folder.glob(f"root/artifacts/{stage}/*/manifest.json")
        return json.loads(path.read_text())

    assert manifest("shards")["location"] == "team://shards/"
    assert manifest("count")["facts"] == {"samples": 48}
    assert {"my_clip", "my_clip.counted"} <= manifest("count")["provenance"]["source"].keys()
    assert manifest("train")["config"]["objective"] == {"kind": "smoothed", "smoothing": 0.25}
    assert "my_clip" in manifest("train")["provenance"]["source"]
    assert 0 <= manifest("spread")["metrics"]["spread"] <= 2
    assert "cached" in run(folder, "clipline", "plan", "my_clip.counted", *sets)


def test_the_members_of_a_package_are_listed_with_ours(folder):
    assert "smoothing" in run(folder, "clipline", "fields", "train")
    listed = run(folder, "clipline", "fields", "filter")
    assert "text_junk" in listed
    assert "quiet" in listed
    sets = ("--set", "images=team://shards", "--set", 'filter.rules=["quiet"]')
    assert "filter" in run(folder, "clipline", "plan", "curate", *sets)


def test_an_example_has_fewer_than_forty_lines():
    """A class or function with what belongs to it; the rule, the objective and the task stand in one file."""
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        for part in re.split(r"^(?=class |def )", text, flags=re.MULTILINE):
            assert len(part.splitlines()) < 40
