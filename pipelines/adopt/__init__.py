"""Take data somebody already has into a workflow, in place and identified by content."""

from pipelines.adopt.config import Config
from pipelines.adopt.contents import (
    ArchiveList,
    Archives,
    Contents,
    Corpus,
    Images,
    Metadata,
    Model,
    Pairs,
    Selection,
    Shards,
    TestSets,
    UrlList,
    test_sets,
)
from pipelines.adopt.embeddings import Embeddings, Weights
from pipelines.adopt.prompts import Prompts
from pipelines.adopt.regions import RegionShards
from pipelines.adopt.stage import run

__all__ = [
    "ArchiveList",
    "Archives",
    "Config",
    "Contents",
    "Corpus",
    "Embeddings",
    "Images",
    "Metadata",
    "Model",
    "Pairs",
    "Prompts",
    "RegionShards",
    "Selection",
    "Shards",
    "TestSets",
    "UrlList",
    "Weights",
    "run",
    "test_sets",
]
