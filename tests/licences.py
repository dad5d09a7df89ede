"""The packages that clipline uses with their licences, from constraints.txt and the metadata of what is installed.

``python -m tests.licences > docs/licences.md`` writes the list; a test compares the two and refuses a licence that
nobody has looked at. A licence enters :data:`FREE` or :data:`REVIEWED` by hand, after reading it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parents[1]

FREE = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib",
}  # fmt: skip
"""Licences that ask for their notice and nothing else; ``BSD`` where the metadata does not say which."""

REVIEWED = {
    "LGPL-3.0-only": "a library that is imported as it is: its own changes would have to be published, not ours",
    "MPL-2.0": "files of the package that are changed have to be published; ours are not touched",
    "LicenseRef-NVIDIA-Proprietary": "CUDA's libraries, of NVIDIA's own licence: free to use and, within a product, "
    "to pass on, for NVIDIA's GPUs; only with clipline[train]",
}
"""Licences with further conditions, and why they are no hindrance here."""

SAME = {
    "2-clause BSD License": "BSD-2-Clause", "3-Clause BSD License": "BSD-3-Clause", "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0", "BSD License": "BSD",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only", "ISC License (ISCL)": "ISC", "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}  # fmt: skip
"""What older metadata says, in SPDX's names."""

READ = {"cuda-toolkit": "LicenseRef-NVIDIA-Proprietary", "huey": "MIT", "skops": "MIT"}
"""Licences of packages whose metadata has none, from the file in the package or its project."""


INTRODUCTION = """\
Every package that clipline and its extras bring on Linux, in the tested version, from the packages' own metadata;
`tests`: only to develop it. `python -m tests.licences > docs/licences.md` writes this page, and a test refuses a
package whose licence is unknown, forbids some use (as CC-BY-NC does) or has not been read. clipline is Apache-2.0.
Weights and data sets have licences of their own, which metadata does not tell: look before you use one.
"""


@dataclass(frozen=True)
class Package:
    """A pinned package. ``needed``: ``clipline``, the extras it comes with, or ``tests`` if it comes with no other."""

    name: str
    version: str
    licence: str
    needed: str


def packages() -> list[Package]:
    """The pinned packages of this platform, by name."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    base = _closure(project["project"]["dependencies"])
    by_extra = {name: _closure(lines) - base for name, lines in sorted(extras.items()) if name != "all"}
    tests = _closure(project["dependency-groups"]["dev"])
    found = []
    for requirement in _pinned():
        name = canonicalize_name(requirement.name)
        named = [extra for extra, names in by_extra.items() if name in names]
        needed = "clipline" if name in base else ", ".join(named) or ("tests" if name in tests else "nothing")
        (pin,) = requirement.specifier
        found.append(Package(name, pin.version, licence(name), needed))
    return found


def everything() -> set[str]:
    """The names of all packages that clipline, its extras and its tests bring here."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    development = project["dependency-groups"]["dev"]
    return _closure([*project["project"]["dependencies"], *(line for lines in extras for line in lines), *development])


def licence(name: str) -> str:
    """The licence of an installed package, in SPDX's words as far as they are known; else ``unknown``."""
    if name in READ:
        return READ[name]
    about = metadata(name)
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    stated = [line for line in classifiers if line not in ("OSI Approved", "DFSG approved")]
    if not stated:
        stated = [(about.get("License") or "").strip().partition("\n")[0]]
    return " OR ".join(SAME.get(one, one) for one in stated if one) or "unknown"


def unread(expression: str) -> list[str]:
    """The licences of an expression that nobody has read. Of alternatives (``OR``) one that is known is enough."""
    choices = [
        [part for part in re.split(r" AND ", choice.strip("() ")) if part not in FREE and part not in REVIEWED]
        for choice in re.split(r" OR ", expression)
    ]
    return min(choices, key=len)


def markdown() -> str:
    """The page docs/licences.md."""
    listed = packages()
    lines = [
        "# Licences",
        "",
        *INTRODUCTION.splitlines(),
        "",
        "| licence | why it is no hindrance |",
        "|---|---|",
        *(f"| {name} | {why} |" for name, why in REVIEWED.items()),
        "",
        "| package | version | licence | needed by |",
        "|---|---|---|---|",
        *(f"| {one.name} | {one.version} | {one.licence} | {one.needed} |" for one in listed),
    ]
    return "\n".join(lines) + "\n"


def _pinned() -> Iterator[Requirement]:
    for line in (REPO / "constraints.txt").read_text().splitlines():
        requirement = None if line.startswith("#") else Requirement(line)
        if requirement is not None and (requirement.marker is None or requirement.marker.evaluate()):
            yield requirement


def _closure(lines: Iterable[str]) -> set[str]:
    """The names of packages that requirements bring here, with all that those need."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in lines if isinstance(line, str)]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found.add(name)
            try:
                further = [Requirement(line) for line in requires(name) or ()]
            except PackageNotFoundError:  # of another platform
                continue
            waiting += [one for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    return found - {"clipline"}


if __name__ == "__main__":
    sys.stdout.write(markdown())
