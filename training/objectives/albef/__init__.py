"""ALBEF: momentum contrast, image-text matching, masked language modelling."""

from training.objectives.albef.config import Config

__all__ = ["Config"]
