"""Slurm as batch scripts see it, on one machine: ``srun`` runs the command here, ``scontrol`` lists and requeues."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "infra/deploy/slurm/clipline.sbatch"

SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$FAKE_LOG"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) [ "$2 $3" = "hostnames node[1-3]" ] && printf 'node1\\nnode2\\nnode3\\n' || echo "$3" ;;
  *) echo "scontrol $*" >>"$FAKE_LOG" ;;
esac
"""
HOSTNAME = "#!/bin/sh\necho 127.0.0.1 10.0.0.9\n"


def start(folder: Path, programs: dict[str, str], *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    """The batch script as Slurm starts it, with ``programs`` before all others on the path."""
    path = folder / "bin"
    path.mkdir(exist_ok=True)
    for name, text in ({"srun": SRUN, "scontrol": SCONTROL, "hostname": HOSTNAME} | programs).items():
        (path / name).write_text(text)
        (path / name).chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{path}:{os.environ['PATH']}",
        "FAKE_LOG": str(folder / "calls"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_CPUS_PER_TASK": "2",
        **variables,
    }
    command = ["bash", str(SCRIPT), *arguments]
    with said(folder).open("a") as output:
        return subprocess.Popen(command, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT)


def said(folder: Path) -> Path:
    """The file that holds the job's output."""
    return folder / "slurm.log"


def calls(folder: Path) -> list[str]:
    """What ``srun`` and ``scontrol`` were asked for, and what programs of a test wrote to ``FAKE_LOG``."""
    there = folder / "calls"
    return there.read_text().splitlines() if there.exists() else []
