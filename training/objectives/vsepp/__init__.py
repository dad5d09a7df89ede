"""VSE++'s objective: hinge loss against the hardest negative."""

from training.objectives.vsepp.config import Config

__all__ = ["Config"]
