"""The command line: ``clipline``, also as ``python -m workflows.cli``."""

from workflows.cli.app import main

__all__ = ["main"]
