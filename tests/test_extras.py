"""A node without torch, torchvision, open_clip and img2dataset: curation runs there, and the rest says what to install.

The packages are hidden from Python in every process, Ray's workers too, by a ``sitecustomize`` on its path.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement
from PIL import Image

from infra.errors import ConfigError
from infra.extras import EXTRAS, extras_of, missing, require
from infra.formats.shards import TarWriter, read_samples
from pipelines import download
from pipelines.adopt.published import fetched
from pipelines.curate import embed, score
from training import train

REPO = Path(__file__).parents[1]
HIDDEN = (
    "torch",
    "torchvision",
    "open_clip",
    "timm",
    "safetensors",
    "img2dataset",
    "webdataset",
    "rapidocr",
    "psycopg",
)

HIDE = f"""
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {HIDDEN} else PathFinder.find_spec(name, path, target)

sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""

RECIPE = """
from pipelines import adopt, urls
from pipelines.curate import dedup, filter, shard
from pipelines.curate.filter import rules
from training import train
from workflows.stage import Stage, Workflow


def workflow(data: str, learn: bool = False) -> Workflow:
    listed = Stage("list", adopt.run, adopt.Config(path=f"{data}/list.csv", contents=adopt.UrlList()))
    pairs = Stage("urls", urls.run, urls.Config(), {"list": listed})
    images = {"images": Stage("images", adopt.run, adopt.Config(path=f"{data}/images", contents=adopt.Images()))}
    filtered = Stage("filter", filter.run, filter.Config(rules=(rules.ImageSide(min=64), rules.TextLength())), images)
    alone = Stage("dedup", dedup.run, dedup.Config(), {**images, "selection": filtered})
    shards = Stage("shard", shard.run, shard.Config(holdout_fraction=0), {**images, "selection": alone})
    stages = (listed, pairs, *images.values(), filtered, alone, shards)
    trained = Stage("train", train.run, train.Config(model="RN50", samples=8, batch_size=4), {"shards": shards})
    return Workflow("bare", (*stages, trained) if learn else stages)
"""


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A function that runs a command as on a node without the packages."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(HIDE)
    (tmp_path / "bare.py").write_text(RECIPE)
    env = {**os.environ, "CLIPLINE_ROOT": str(tmp_path / "root"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "path"), str(REPO)])
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        env.pop(name, None)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *command]
        return subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)

    return run


@pytest.fixture
def data(tmp_path) -> str:
    """Six images as img2dataset leaves them, one of them twice, and a list of addresses."""
    folder = tmp_path / "images"
    folder.mkdir()
    records = []
    with (folder / "00000.tar").open("wb") as sink, TarWriter(sink) as out:
        for number, seed in enumerate((0, 1, 2, 3, 4, 5, 0)):
            noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC).save(file, "JPEG")
            key, caption = f"00000{number:04d}", f"a castle by the river, view {number}"
            out.add(f"{key}.jpg", file.getvalue())
            out.add(f"{key}.txt", caption.encode())
            records.append({
                "url": f"https://img.example/{key}.jpg", "key": key, "caption": caption, "status": "success",
                "error_message": None, "width": 96, "height": 96, "original_width": 96, "original_height": 96,
                "exif": "{}", "sha256": hashlib.sha256(file.getvalue()).hexdigest(),
            })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(records), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text("{}")
    rows = [f"https://img.example/{number}.jpg,a castle of number {number}" for number in range(5)]
    (tmp_path / "list.csv").write_text("\n".join(["url,caption", *rows, ""]))
    return str(tmp_path)


@pytest.mark.ray
@pytest.mark.long
def test_lists_become_shards_without_torch(bare, data, tmp_path):
    done = bare("-m", "workflows.cli", "run", "bare.py", "--cpus", "2", "--set", f"data={data}")
    assert done.returncode == 0, done.stderr
    (pairs,) = tmp_path.glob("root/artifacts/urls/*/data/*.parquet")
    assert pq.read_metadata(pairs).num_rows == 5
    (tar,) = tmp_path.glob("root/artifacts/shard/*/data/train/*.tar")
    with tar.open("rb") as file:
        assert len(list(read_samples(file))) == 6


def test_what_needs_them_says_what_to_install(bare, data):
    wanted = ("bare.py", "--set", f"data={data}", "--set", "learn=true")
    planned = bare("-m", "workflows.cli", "plan", *wanted)
    assert planned.returncode == 0
    assert "pip install 'clipline[train]'" in planned.stdout
    refused = bare("-m", "workflows.cli", "run", *wanted)
    assert refused.returncode == 2
    assert "stage train needs what is not installed here: torch, torchvision, open_clip" in refused.stderr
    assert "pip install 'clipline[train]'" in refused.stderr
    alone = bare("-c", "import sys; from training.command import main; sys.exit(main())", "--help")
    assert (alone.returncode, "Traceback" in alone.stderr) == (2, False)
    assert "pip install 'clipline[train]'" in alone.stderr


def test_the_doctor_lists_the_extras(bare):
    found = bare("-m", "workflows.cli", "doctor").stdout
    assert "torch, torchvision, open_clip not installed: pip install 'clipline[train]'" in found.replace("\n", " ")
    assert "[s3]" in found


def test_configurations_name_the_extras_of_their_work():
    assert extras_of(train.Config(model="RN50", samples=8, batch_size=4)) == ["train"]
    assert extras_of(download.Config()) == []
    assert extras_of(download.Config(engine="img2dataset")) == ["img2dataset"]
    assert extras_of(embed.Config(mask_text=True)) == ["ocr", "train"]
    assert extras_of(score.Config(scores=["clip_score"])) == []
    assert extras_of(score.Config(scores=["clip_score", "aesthetic"])) == ["train"]


def test_what_is_missing_is_named_once(monkeypatch):
    require(["train", "s3"], "a stage")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    assert missing("ocr") == ["rapidocr"]
    with pytest.raises(ConfigError) as caught:
        require(["ocr", "s3", "train"], "stage embed")
    assert caught.value.message == "stage embed needs what is not installed here: rapidocr, s3fs"
    assert caught.value.fix == "pip install 'clipline[ocr,s3]'"


def test_each_extra_installs_its_modules():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {*EXTRAS, "all"}
    assert extras["all"] == [f"clipline[{','.join(sorted(EXTRAS))}]"]
    owners = {module: _plain(names[0]) for module, names in packages_distributions().items()}
    needed = {_plain(Requirement(line).name) for line in project["dependencies"]}
    for extra, modules in EXTRAS.items():
        listed = {_plain(Requirement(line).name) for line in extras[extra]}
        assert {owners[module] for module in modules} <= listed
        assert not {owners[module] for module in modules} & needed


def test_a_model_of_a_hub_says_what_it_needs(monkeypatch):
    for name in ["huggingface_hub", *(name for name in sys.modules if name.startswith("huggingface_hub."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "pipelines.adopt.hub", raising=False)
    with pytest.raises(ConfigError) as caught:
        fetched("hf-hub:laion/CLIP", lambda names: [*names])
    assert "needs the package huggingface_hub" in caught.value.message
    assert caught.value.fix == "pip install 'clipline[train]'"


TAKEN_BY_OTHERS = {
    "boto3": "MLflow's way to buckets",
    "onnxruntime": "rapidocr's engine",
    "psycopg": "MLflow's way to PostgreSQL",
    "s3fs": "fsspec's way to buckets",
    "torchvision": "the image transforms of open_clip and timm",
    "webdataset": "img2dataset's shards",
}
FONTS = {"justmytype-intl-cjk", "justmytype-intl-sea", "justmytype-intl-south-asia"}  # files without code
BROUGHT = {"pydantic-core"}  # pydantic asks for exactly one version of it


def test_what_the_code_imports_is_declared_and_what_is_declared_it_imports():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {_plain(Requirement(line).name) for line in lines} - {"clipline"}
    owners = {module: {*map(_plain, names)} for module, names in packages_distributions().items()}
    imported = _imported() - {*sys.stdlib_module_names, "infra", "pipelines", "training", "evaluation", "workflows"}
    unknown = {module for module in imported if not owners[module] & (declared | BROUGHT)}
    assert not unknown, "imported, and only there because another package needs it"
    assert declared - set().union(*(owners[module] for module in imported)) == {*TAKEN_BY_OTHERS, *FONTS}


def _imported() -> set[str]:
    """The top-level names of all modules that the packages import, wherever in them."""
    found = set()
    for package in ("infra", "pipelines", "training", "evaluation", "workflows"):
        for path in (REPO / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.split(".")[0])
    return found


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
