"""Source digests follow first-party imports, and only them, as a parser would see them."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest

from infra.config import Config
from pipelines import crawl, download
from pipelines.curate import filter
from pipelines.curate.filter.rules import Rule
from workflows import user
from workflows.run.drift import PACKAGES, _imported, _locate, changed_modules, source_digests

REPOSITORY = Path(importlib.util.find_spec("infra").origin).parents[1]
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
TOPS = frozenset(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_reading_lines_finds_what_parsing_finds(path):
    names = set()

    def visit(node):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import, which the digest does not follow"
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    expected = {_locate(name) for name in names if name.split(".")[0] in PACKAGES} - {None}
    found = {_locate(name) for name in _imported(path, TOPS)} - {None}
    packages = {file for file in found if file.name == "__init__.py"}  # those around the modules are found, too
    assert expected <= found
    assert found - packages <= expected


def write(tmp_path, text: str) -> Path:
    path = tmp_path / f"m{hashlib.sha256(text.encode()).hexdigest()[:8]}.py"
    path.write_text(text)
    return path


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "line",
    [
        "from infra.run import manifest",
        "from infra.run.manifest import Artifact",
        "from infra.run import (\n    context,  # some\n    manifest as record,\n)",
        "import infra.run.manifest",
        "import infra.run.manifest as record",
        "import json, infra.run.manifest",
        "def f():\n    from infra.run.manifest import Funnel",
        "if True:\n\timport infra.run.manifest",
        "if TYPE_CHECKING:\n    import json\n\nfrom infra.run.manifest import File",
    ],
)
def test_every_way_to_import_is_seen(tmp_path, line):
    path = write(tmp_path, f"{line}\ndef run(): ...\n")
    assert {"infra", "infra.run", "infra.run.manifest"} <= set(_imported(path, TOPS))


@pytest.mark.parametrize(
    "line",
    [
        "import json",
        "from infrared import storage",
        "import myinfra",
        "x = 'import infra'",
        "if TYPE_CHECKING:\n    from infra.run import manifest\n\n    import infra.errors",
    ],
)
def test_what_is_not_loaded_is_not_followed(tmp_path, line):
    path = write(tmp_path, f"{line}\ndef run(): ...\n")
    assert _imported(path, TOPS) == ()


def test_the_digest_changes_with_the_module_and_not_with_the_folder(tmp_path):
    digests = []
    for folder, text in (("a", "def run(): ...\n"), ("b", "def run(): ...\n"), ("c", "def run(): return 1\n")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "stage_module.py"
        path.write_text(f"from infra import errors\n{text}")
        digests.append(source_digests(load(path).run))
    assert digests[0] == digests[1]
    assert changed_modules(digests[0], digests[2]) == ("stage_module",)
    assert digests[0].keys() == {"infra", "infra.errors", "stage_module"}


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("pipelines.crawl.rounds", {"crawl"}),
        ("pipelines.download.retry", {"download"}),
        ("infra.errors", {"crawl", "download", "filter"}),
        ("pipelines.curate.filter.rules.text", {"filter"}),
        ("workflows.run.runner", set()),
    ],
)
def test_an_edit_shows_in_the_stages_that_load_the_module(monkeypatch, module, stages):
    all_stages = {"crawl": crawl.run, "download": download.run, "filter": filter.run}
    before = {name: source_digests(run) for name, run in all_stages.items()}
    read, edited = Path.read_bytes, REPOSITORY / f"{module.replace('.', '/')}.py"
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b"#" if self == edited else b""))
    changed = {name: changed_modules(before[name], source_digests(run)) for name, run in all_stages.items()}
    assert {name for name, modules in changed.items() if modules} == stages
    assert {modules for modules in changed.values() if modules} <= {(module,)}


def test_the_classes_of_a_configuration_count_wherever_they_are_from(tmp_path, monkeypatch):
    path = tmp_path / "drift_rules.py"
    path.write_text(
        "from pipelines.curate.filter.rules import Rule\n"
        "class Mine(Rule):\n    kind = 'drift_mine'\n    columns = ('caption',)\n    def keeps(self, rows): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = filter.Config(rules=("drift_rules:Mine",))
    found = source_digests(filter.run, config)
    assert found.keys() - source_digests(filter.run).keys() == {"drift_rules"}
    assert Rule.__module__ in found
    path.write_text(path.read_text() + "# edited\n")
    assert changed_modules(found, source_digests(filter.run, config)) == ("drift_rules",)


def test_a_module_whose_file_went_during_a_run_has_changed(tmp_path, monkeypatch):
    path, rules = tmp_path / "drift_stage.py", tmp_path / "drift_going.py"
    rules.write_text("x = 1\n")
    path.write_text("import drift_going\ndef run(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("workflows.run.drift.PACKAGES", (*PACKAGES, "drift_going"))
    before = source_digests(load(path).run)
    rules.unlink()
    assert changed_modules(before, source_digests(sys.modules["drift_stage"].run)) == ("drift_going",)
    path.unlink()
    assert "drift_stage" in changed_modules(before, source_digests(sys.modules["drift_stage"].run))


def test_an_edited_recipe_is_one_module_that_changed(tmp_path):
    path = tmp_path / "my_recipe.py"
    digests = []
    for text in ("def run(): ...\n", "def run(): return 1\n"):
        path.write_text(text)
        digests.append(source_digests(user.load(path).run))
    assert changed_modules(*digests) == ("workflows.user.my_recipe",)


def test_a_wrapped_function_is_looked_through():
    @functools.wraps(download.run)
    def wrapped(*args):
        return download.run(*args)

    assert source_digests(wrapped) == source_digests(download.run)
    assert source_digests(download.run, Config()) == source_digests(download.run)
