"""SemDeDup (Abbas et al. 2023, arXiv:2303.09540): drop images that show nearly what another shows.

The vectors of all images are divided into clusters by k-means, on the sphere. In a cluster, rows are ordered by their
cosine with the centroid, the lowest first; a row is dropped if its cosine with *any* row before it is above
1 - epsilon, as the paper has it. So the first of a chain of small steps stays: that is whose uid the others name.
"""

from __future__ import annotations

from collections.abc import Mapping

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.semdedup.config import Config

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``images``, or those that ``selection`` keeps -> a selection.

    It has ``semantic_cluster``, a number, and ``semantic_similarity``, the cosine with the most similar row before.
    Dropped rows have ``duplicate_of``, a uid. A row without a vector is dropped, with the reason why it has none.
    """
    from pipelines.curate.semdedup.steps import write_selection  # loads numpy and pyarrow

    return write_selection(config, inputs, context)
