"""Subset: which rows were chosen, in the form in which DataComp's participants hand in their choice.

A file of 128-bit ids in order, ``data/subset.npy`` of dtype ``u8,u8``: the first and the last 16 hex digits of each
``uid`` as numbers. DataComp's resharder, the rule ``subset`` and the stage reshard take it; a row with ``repeats`` is
listed as often.
"""

from __future__ import annotations

from collections.abc import Mapping

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.subset.config import Config

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` or ``pairs`` -> ``data/subset.npy``. No process holds more than a part of the ids."""
    from pipelines.curate.subset import work

    config.check_inputs(inputs)
    return work.write_ids(config, inputs, context)
