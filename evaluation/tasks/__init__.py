"""Evaluation tasks: an open family, one small file each; docs/evaluation.md shows how to add one from a recipe."""

from evaluation.tasks.analogies import Analogies
from evaluation.tasks.associations import Associations
from evaluation.tasks.captioning import Captioning
from evaluation.tasks.corrupted import Corrupted
from evaluation.tasks.localisation import Localisation
from evaluation.tasks.matching import Matching
from evaluation.tasks.multiple_choice import MultipleChoice
from evaluation.tasks.neighbours import NearestNeighbours
from evaluation.tasks.probe import FewShot, LinearProbe
from evaluation.tasks.retrieval import Retrieval
from evaluation.tasks.selection import ImageCaptionSelection
from evaluation.tasks.task import Scores, Task
from evaluation.tasks.vqa import VisualQuestionAnswering
from evaluation.tasks.word_analogies import WordAnalogies
from evaluation.tasks.word_similarity import WordSimilarity
from evaluation.tasks.zeroshot import ZeroShot

__all__ = [
    "Analogies",
    "Associations",
    "Captioning",
    "Corrupted",
    "FewShot",
    "ImageCaptionSelection",
    "LinearProbe",
    "Localisation",
    "Matching",
    "MultipleChoice",
    "NearestNeighbours",
    "Retrieval",
    "Scores",
    "Task",
    "VisualQuestionAnswering",
    "WordAnalogies",
    "WordSimilarity",
    "ZeroShot",
]
