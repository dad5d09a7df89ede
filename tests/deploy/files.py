"""The files of infra/deploy as data, and the versions they have to agree with."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
DEPLOY = REPO / "infra/deploy"
YAML = sorted(path for pattern in ("*.yaml", "*.yml") for path in DEPLOY.rglob(pattern))
OVERLAYS = ("cpu", "gpu", "team")
PORTS = {"gcs-server": 6379, "dashboard": 8265, "http": 5000}


class NoRepeats(yaml.SafeLoader):
    """YAML's parser lets the last of two equal keys win, which hides a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key twice among {keys}"
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[Any]:
    return [one for one in yaml.load_all(text, NoRepeats) if one is not None]


def version() -> str:
    """clipline's own."""
    return str(tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"])


def pinned(package: str) -> str:
    """The version of a package in constraints.txt."""
    found = re.search(rf"^{package}==(\S+)", (REPO / "constraints.txt").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


@cache
def built(overlay: str) -> tuple[dict[str, Any], ...]:
    """The resources of an overlay, as kubectl would apply them."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, which has kustomize")
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes/overlays" / overlay)]
    return tuple(documents(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout))


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(item)


def containers(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for mapping in mappings(resource):
        yield from mapping.get("containers", ())
