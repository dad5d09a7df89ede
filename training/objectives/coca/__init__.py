"""CoCa's objective: contrast and captioning."""

from training.objectives.coca.config import Config

__all__ = ["Config"]
