"""ALBEF: momentum contrast, image-text matching, masked language modelling."""

from training.objectives.albef.config import Config, load

__all__ = ["Config", "load"]
