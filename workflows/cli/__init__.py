"""The command line: ``clipline``, also as ``python -m workflows.cli``."""
