"""The digest of the source code behind a stage, so that ``plan`` can say when it has changed.

Drift is shown, not acted on: a cosmetic edit must not cost a crawl. Whoever changes a result raises ``code_version``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["PACKAGES", "source_digest"]

PACKAGES = ("infra", "pipelines", "training", "evaluation", "workflows")

# A line is enough to see an import of ours, and a hundred times faster than parsing: plan has half a second.
_MODULE = rf"(?:{'|'.join(PACKAGES)})\b[\w.]*"
_FROM = re.compile(rf"^[ \t]*from[ \t]+({_MODULE})[ \t]+import[ \t]*(\([^)]*\)|.*)", re.MULTILINE)
_IMPORT = re.compile(rf"^[ \t]*import[ \t]+(.*\b{_MODULE}.*)", re.MULTILINE)


def source_digest(function: Callable[..., Any]) -> str:
    """sha256 over the function's module and every module of ours it imports, directly or not (found by reading,
    not by importing)."""
    start = Path(inspect.getfile(inspect.unwrap(function)))
    todo, seen = [start], {start}
    while todo:
        for path in _imports(todo.pop()):
            if path not in seen:
                seen.add(path)
                todo.append(path)
    combined = hashlib.sha256()
    for path in sorted(seen, key=lambda item: (item != start, item.parts[-2:])):
        combined.update(hashlib.sha256(path.read_bytes()).digest())
    return combined.hexdigest()


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    return tuple(found for name in _imported_names(path) if (found := _locate(name)))


def _imported_names(path: Path) -> Iterator[str]:
    text = path.read_text()
    for module, names in _FROM.findall(text):
        yield module
        yield from (f"{module}.{name}" for name in re.findall(r"\w+", names))
    for line in _IMPORT.findall(text):
        yield from re.findall(_MODULE, line)


@cache
def _locate(name: str) -> Path | None:
    """The file of one of our modules; None for anything else (a class, a peer's package)."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top) if top in PACKAGES else None
    if spec is None or not spec.origin:
        return None
    module = Path(spec.origin).parent.joinpath(*rest)
    file = module.with_suffix(".py") if rest else module / "__init__.py"
    return file if file.is_file() else None
