"""The README cannot drift: its tree names every module, its table every command, its targets exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from workflows.cli import app

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text()
PACKAGES = ("workflows", "pipelines", "training", "evaluation", "infra")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_names_every_module(package):
    tree = re.search(rf"^{package}/ .*?(?=^\S)", README, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^  (\S+\.py)", tree[0], re.MULTILINE))
    there = {path.relative_to(REPO / package).as_posix() for path in (REPO / package).rglob("*.py")}
    assert named == {name for name in there if not name.endswith("__init__.py")}


def test_every_command_is_documented_and_every_documented_command_exists():
    commands = set(typer.main.get_command(app).commands)
    assert set(re.findall(r"`(?:clipline )?(\w+)[^`]*`", _table())) | {"recipes"} >= commands
    assert set(re.findall(r"clipline (\w+)", README)) - {"turns"} <= commands


def _table() -> str:
    return "\n".join(line for line in README.splitlines() if line.startswith("| `clipline"))


def test_the_make_targets_of_the_readme_exist():
    makefile = (REPO / "Makefile").read_text()
    for target in re.findall(r"^\$ make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_every_picture_of_the_readme_is_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (REPO / path).is_file()
