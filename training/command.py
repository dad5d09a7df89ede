"""The entry point of ``clipline-train``: where torch is missing, it says so before anything imports it."""

from __future__ import annotations

import sys

from infra.errors import ConfigError
from infra.extras import require

__all__ = ["main"]


def main() -> int:
    """Run :func:`training.cli.main`; the exit code."""
    try:
        require(["train"], "clipline-train")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    from training import cli

    return cli.main()
