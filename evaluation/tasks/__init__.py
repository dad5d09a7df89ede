"""Evaluation tasks: an open family, one small file each; docs/evaluation.md shows how to add one from a recipe."""

from evaluation.tasks.retrieval import Retrieval
from evaluation.tasks.task import Scores, Task
from evaluation.tasks.zeroshot import ZeroShot

__all__ = ["Retrieval", "Scores", "Task", "ZeroShot"]
