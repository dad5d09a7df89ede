"""Digest the source modules behind a stage, so that ``plan`` can name those that changed since an artifact was made.

Drift is shown, not acted on: a cosmetic edit must not cost a crawl. Whoever changes a result raises ``code_version``.
The modules are found by reading import statements, not by importing: ``plan`` answers in half a second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from infra.config import Choice, Config
from workflows.user import is_user_module

__all__ = ["PACKAGES", "changed_modules", "source_digests"]

PACKAGES = ("infra", "pipelines", "training", "evaluation", "workflows")
"""First-party packages. A package that a stage's function or configuration comes from counts as well."""


def source_digests(function: Callable[..., Any], config: Config | None = None) -> dict[str, str]:
    """sha256 of each first-party module that a stage loads, 16 hex digits, by module name.

    These are the modules of the function and of the classes in the configuration (rules, objectives, ...), all that
    they import, directly or not, and the packages around them. Imports for type checkers only do not count.
    """
    start = _files_of(function, config) | _implementations(config)
    tops = {*PACKAGES, *(name.partition(".")[0] for name in start if not is_user_module(name))}
    files, todo = dict(start), list(start.items())
    while todo:
        name, path = todo.pop()
        for imported in (*_parents(name), *_imported(path, frozenset(tops))):
            if imported not in files and (file := _locate(imported)) is not None:
                files[imported] = file
                todo.append((imported, file))
    # A file may go while a run goes on (another branch is checked out): to later stages its module has changed.
    return {_label(name): _digest(path) for name, path in sorted(files.items()) if path.is_file()}


def changed_modules(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Modules whose digest differs, that came or that went."""
    return tuple(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)))


def _files_of(function: Callable[..., Any], config: Config | None) -> dict[str, Path]:
    """Files of the modules that define the stage's function and configuration, by module name."""
    things: list[Any] = [inspect.unwrap(function)]
    for part in config.parts() if config is not None else ():
        things += [base for base in type(part).__mro__ if issubclass(base, Config)]
    files = {}
    for module in {thing.__module__ for thing in things}:
        file = getattr(sys.modules.get(module), "__file__", None)
        path = Path(file if file is not None else inspect.getfile(things[0]))
        # The module that was run as a script is called __main__, whatever its file.
        files[path.stem if module == "__main__" else module] = path
    return files


def _implementations(config: Config | None) -> dict[str, Path]:
    """Files of the modules that parts of the configuration import by name."""
    parts = config.parts() if config is not None else ()
    named = {
        part.implementation.partition(":")[0] for part in parts if isinstance(part, Choice) and part.implementation
    }
    return {name: path for name in named if (path := _locate(name)) is not None}


def _label(name: str) -> str:
    """The module's name; of a recipe file without the digest of its content, which would name every edit another."""
    return name.rpartition("_")[0] if is_user_module(name) else name


def _parents(name: str) -> Iterator[str]:
    """Packages around a module: importing it runs them first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


# A line is enough to see an import, and a hundred times faster than parsing.
_TYPE_CHECKING = re.compile(r"^([ \t]*)if (?:typing\.)?TYPE_CHECKING:[^\n]*\n(?:(?:\1[ \t]+[^\n]*)?\n)*", re.MULTILINE)


@cache
def _patterns(tops: frozenset[str]) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    module = rf"(?:{'|'.join(map(re.escape, sorted(tops)))})\b[\w.]*"
    return (
        re.compile(rf"^[ \t]*from[ \t]+({module})[ \t]+import[ \t]*(\([^)]*\)|.*)", re.MULTILINE),
        re.compile(rf"^[ \t]*import[ \t]+(.*\b{module}.*)", re.MULTILINE),
        re.compile(module),
    )


@cache
def _imported(path: Path, tops: frozenset[str]) -> tuple[str, ...]:
    """Names of the modules below ``tops`` that a file imports, and of what it imports from them."""
    from_import, plain_import, module = _patterns(tops)
    text = _TYPE_CHECKING.sub("", path.read_text("utf-8") if path.is_file() else "")
    names: list[str] = []
    for package, imported in from_import.findall(text):
        names.append(package)
        names += (f"{package}.{name}" for name in re.findall(r"\w+", imported))
    for line in plain_import.findall(text):
        names += module.findall(line)
    return tuple(dict.fromkeys((*names, *(parent for name in names for parent in _parents(name)))))


@cache
def _locate(name: str) -> Path | None:
    """The file of a module; None for anything else (a class, a package of somebody else's)."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module made up at run time has no spec
        return None
    if spec is None or not spec.origin:
        return None
    if not rest:
        return Path(spec.origin)
    base = Path(spec.origin).parent.joinpath(*rest)
    found = (file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file())
    return next(found, None)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
