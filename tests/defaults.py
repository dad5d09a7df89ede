"""Record the defaults of every configuration: ``python -m tests.defaults`` writes ``tests/defaults.json``.

Identities hold only what differs from a default, so a changed default would pass old results off as new ones. It is
refused here, and by tests/test_defaults.py, until the ``code_version`` of the class is raised.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from infra.config import Config, _default, is_runtime

FILE = Path(__file__).with_name("defaults.json")
PACKAGES = ("infra", "pipelines", "training", "evaluation", "workflows")
REPOSITORY = Path(__file__).parents[1]


def current() -> dict[str, dict[str, Any]]:
    """Code version and defaults of the deciding fields of every configuration class, by its place."""
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if "(Config)" in (text := path.read_text()) or "Config):" in text or "(Choice)" in text:
                importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    classes = sorted((cls for cls in _subclasses(Config) if cls.__module__.split(".")[0] in PACKAGES), key=_place)
    return {
        _place(cls): {
            "code_version": cls.code_version,
            "defaults": {
                name: "(required)" if field.is_required() else _default(field)
                for name, field in cls.model_fields.items()
                if not is_runtime(field)
            },
        }
        for cls in classes
    }


def changed_without_version(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Fields whose default is another although the code version of their class is the same."""
    return [
        f"{place}.{name}: {before['defaults'][name]!r} -> {default!r}"
        for place, before in recorded.items()
        if place in now and now[place]["code_version"] == before["code_version"]
        for name, default in now[place]["defaults"].items()
        if name in before["defaults"] and before["defaults"][name] != default
    ]


def _subclasses(cls: type[Config]) -> set[type[Config]]:
    return {cls, *(found for child in cls.__subclasses__() for found in _subclasses(child))}


def _place(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def main() -> int:
    now = current()
    if FILE.exists() and (faults := changed_without_version(json.loads(FILE.read_text()), now)):
        sys.stderr.write("\n".join(("raise code_version where a default changes:", *faults, "")))
        return 1
    FILE.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
