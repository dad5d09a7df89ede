"""Score: numbers for images and captions, computed of their embeddings, as columns that a filter can ask about."""

from pipelines.curate.score.config import Config
from pipelines.curate.score.scores import Aesthetic, ClipScore, Head, NegCLIPLoss, NormSim, Score, TMars, Unsafe
from pipelines.curate.score.stage import run

__all__ = [
    "Aesthetic",
    "ClipScore",
    "Config",
    "Head",
    "NegCLIPLoss",
    "NormSim",
    "Score",
    "TMars",
    "Unsafe",
    "run",
]
