"""ViLBERT: words and a detector's regions in two streams that attend to each other."""

from training.objectives.albef.config import load
from training.objectives.vilbert.config import Config

__all__ = ["Config", "load"]
