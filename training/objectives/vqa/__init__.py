"""Answers to questions about images, by a fusion model."""

from training.objectives.vqa.config import Config

__all__ = ["Config"]
