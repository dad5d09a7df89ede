"""Textdedup: of rows whose captions have nearly the same words one stays, whatever their images show.

Captions made from a template, and those copied from page to page with a word changed. Texts are sets of *shingles*,
some neighbouring words; two are alike from a Jaccard similarity of these sets on. MinHash finds the pairs: parts of a
signature, the *bands*, are the keys by which likely pairs meet over the exchange. Each pair is then compared by its
shingles themselves, so nothing goes for a text that is not alike. Who stays, and whose captions it gets, is dedup's.
"""

from __future__ import annotations

from collections.abc import Mapping

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.textdedup.config import Config

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` of ``images`` -> a selection with the columns ``text_cluster`` and ``captions``.

    Dropped rows have ``duplicate_of``, a uid. A row without words is like no other.
    """
    from pipelines.curate.textdedup.steps import write_selection  # loads numpy and pyarrow

    return write_selection(config, inputs, context)
