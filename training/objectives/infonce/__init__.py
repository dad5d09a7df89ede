"""CLIP's objective: symmetric InfoNCE over the global batch."""

from training.objectives.infonce.config import Config

__all__ = ["Config"]
