"""data2vec: predict an averaged copy's view of what is masked; pretraining of one tower without captions' help."""

from training.objectives.data2vec.config import Config

__all__ = ["Config"]
