"""ViLT: words and patches in one transformer; matching and masked language modelling."""

from training.objectives.albef.config import load
from training.objectives.vilt.config import Config

__all__ = ["Config", "load"]
