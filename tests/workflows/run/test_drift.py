"""The source digest follows our imports, and only them, as a parser would see them."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

import pytest

from pipelines import download
from workflows.run.drift import PACKAGES, _imports, _locate, source_digest

REPOSITORY = Path(importlib.util.find_spec("infra").origin).parents[1]
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_reading_lines_finds_what_parsing_finds(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import, which the digest does not follow"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    expected = {_locate(name) for name in names if name.split(".")[0] in PACKAGES} - {None}
    assert expected <= set(_imports(path))


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "line",
    [
        "from infra import storage",
        "from infra.store.storage import Store",
        "from infra import (\n    errors,  # some\n    storage as store,\n)",
        "import infra.store.storage",
        "import infra.store.storage as store",
        "import json, infra.store.storage",
        "def f():\n    from infra.store.storage import LocalStore",
        "if True:\n\timport infra.store.storage",
    ],
)
def test_every_way_to_import_is_seen(tmp_path, line):
    path = tmp_path / f"m{hashlib.sha256(line.encode()).hexdigest()[:8]}.py"
    path.write_text(f"{line}\ndef run(): ...\n")
    assert REPOSITORY / "infra/storage.py" in _imports(path)


@pytest.mark.parametrize(
    "line", ["import json", "from infrared import storage", "import myinfra", "x = 'import infra'"]
)
def test_what_is_not_ours_is_not_followed(tmp_path, line):
    path = tmp_path / f"m{hashlib.sha256(line.encode()).hexdigest()[:8]}.py"
    path.write_text(f"{line}\ndef run(): ...\n")
    assert _imports(path) == ()


def test_the_digest_changes_with_the_module_and_not_with_the_folder(tmp_path):
    digests = []
    for folder, text in (("a", "def run(): ...\n"), ("b", "def run(): ...\n"), ("c", "def run(): return 1\n")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "stage_module.py"
        path.write_text(f"from infra import errors\n{text}")
        digests.append(source_digest(load(path).run))
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_changes_with_what_is_imported_at_any_distance(monkeypatch):
    before = source_digest(download.run)
    read = Path.read_bytes

    def with_a_change_in(name):
        return lambda self: read(self) + (b"#" if self.name == name else b"")

    for name, decides in (("download.py", True), ("fetch.py", True), ("errors.py", True), ("cli.py", False)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", with_a_change_in(name))
            assert (source_digest(download.run) != before) is decides, name
    assert source_digest(download.run) == before


def test_a_wrapped_function_is_looked_through():
    @functools.wraps(download.run)
    def wrapped(*args):
        return download.run(*args)

    assert source_digest(wrapped) == source_digest(download.run)
