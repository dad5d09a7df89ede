"""SigLIP's objective: a sigmoid for each pair of the global batch."""

from training.objectives.siglip.config import Config

__all__ = ["Config"]
