"""Profiles: settings of one cluster or machine in a file, for all runs there.

A profile is YAML with what ``--set`` takes, a line each:

    gpu: true
    workers: 8
    embed.limits.labels: {ray.io/accelerator-type: H100}
"""

from __future__ import annotations

import json
from pathlib import Path

from infra.errors import UsageError

__all__ = ["read_profile"]


def read_profile(path: Path) -> list[str]:
    """The settings in a profile, as ``--set`` takes them. Raises UsageError."""
    import yaml  # most runs have no profile

    expected = "lines such as `workers: 8`"
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"the profile {path} cannot be read", expected=expected, found=str(error)) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no profile", expected=expected, found=type(content).__name__)
    return [f"{key}={json.dumps(value, default=str)}" for key, value in content.items()]
