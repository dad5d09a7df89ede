"""Keep what README and docs promise: run the benchmarks of promises.yaml and print promised, floor and found.

    python -m tests.benchmarks.promises [NAME ...] [--list]

NAME is a part of a promise's name. Promises that share a command share its run. What a promise needs and this machine
lacks is named and passed over; a figure beyond its floor or ceiling makes the exit code 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("promises.yaml")
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Promise:
    """One figure. ``figure``: regular expression whose group is the figure; the last match in the output counts."""

    name: str
    page: str
    command: str
    figure: str
    promised: float
    unit: str
    minutes: float
    floor: float | None = None
    ceiling: float | None = None
    needs: str = ""

    def found(self, output: str) -> float | None:
        figures = re.findall(self.figure, output, re.MULTILINE)
        return float(figures[-1].replace(",", "")) if figures else None

    def kept(self, found: float) -> bool:
        return (self.floor is None or found >= self.floor) and (self.ceiling is None or found <= self.ceiling)

    def missing(self) -> list[str]:
        """Environment variables that the command needs and that are not set."""
        return [name for name in re.findall(r"\$\{(\w+)\}", self.command) if not os.environ.get(name)]


def promises() -> list[Promise]:
    return [Promise(**entry) for entry in yaml.safe_load(FILE.read_text())]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of the names of promises; by default all")
    parser.add_argument("--list", action="store_true", help="print them and run nothing")
    options = parser.parse_args(arguments)
    chosen = [each for each in promises() if not options.names or any(name in each.name for name in options.names)]

    outputs: dict[str, tuple[int, str]] = {}
    broken = 0
    print(f"{'promise':40}{'promised':>10}{'bound':>10}{'found':>10}  unit")
    for promise in chosen:
        bound = f">= {promise.floor:g}" if promise.floor is not None else f"<= {promise.ceiling:g}"
        line = f"{promise.name:40}{promise.promised:10g}{bound:>10}"
        if options.list:
            print(f"{line}{'':10}  {promise.unit}; {promise.minutes:g} min; {promise.command}")
            continue
        if missing := promise.missing():
            print(f"{line}{'-':>10}  needs {promise.needs} (set {', '.join(missing)})")
            continue
        if promise.command not in outputs:
            outputs[promise.command] = _run(promise.command)
        code, output = outputs[promise.command]
        found = promise.found(output) if code == 0 else None
        if found is None:
            broken += 1
            print(f"{line}{'failed':>10}  exit code {code}: {output.strip().splitlines()[-1:]}")
            continue
        broken += not promise.kept(found)
        print(f"{line}{found:10g}  {promise.unit}{'' if promise.kept(found) else '   BROKEN'}", flush=True)
    return 1 if broken else 0


def _run(command: str) -> tuple[int, str]:
    line = os.path.expandvars(command.replace("{python}", sys.executable))
    done = subprocess.run(line.split(), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + (done.stderr if done.returncode else "")


if __name__ == "__main__":
    sys.exit(main())
