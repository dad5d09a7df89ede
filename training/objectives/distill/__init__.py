"""Distillation: InfoNCE plus cross-entropy with a teacher's ranking of the batch."""

from training.objectives.distill.config import Config

__all__ = ["Config"]
