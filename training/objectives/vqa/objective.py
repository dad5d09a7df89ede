"""Visual question answering as classification: the fusion model reads image and question, a head names the answer.

Kim et al. 2021, https://arxiv.org/abs/2102.03334, section 4.3: a head of two layers on the pooled token. Each question
has one answer here, so the loss is the cross-entropy of a softmax. Entailment is the same with three answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from infra.device import to_device
from infra.errors import ConfigError
from infra.fusion.answering import answer
from infra.fusion.config import FOLDER, fusion_folder, read_fusion_config
from infra.fusion.towers import lengths_of
from infra.store import LocalStore
from training.distributed.collectives import global_mean
from training.objectives.base import Companion, Objective
from training.objectives.fusion import fusion_encoder

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.data.tokens import Tokenizer
    from training.objectives.vqa.config import Config

__all__ = ["VQA"]


class VQA(Objective):
    """The objective. Raises ConfigError if the input ``pretrained``, an artifact or its data, has no fusion encoder."""

    learnt = ()

    def __init__(self, model: nn.Module, config: Config, run: Run, inputs: Mapping[str, Path]) -> None:
        super().__init__(model)
        pretrained = inputs["pretrained"]
        self.config = config
        folder = fusion_folder(store := LocalStore(pretrained))
        if folder is None:
            raise ConfigError(
                "the model to start from has no fusion encoder",
                expected=f"a folder {FOLDER}, as the objectives albef, vilt and vilbert leave it",
                found=str(pretrained),
            )
        before = read_fusion_config(store, folder)
        answers = list(config.answers)
        self.described = {**before, "vocabulary": None, "matching": False, "answers": answers, "images": config.images}
        if "regions" in before:  # nobody guesses their classes any more
            self.described["regions"] = [*before["regions"][:2], 0]
        self.fusion = fusion_encoder(model, self.described, run)
        own = self.fusion.state_dict()
        same = (before.get("answers"), before.get("images", 1)) == (answers, config.images)
        weights = {
            name: weight for name, weight in load(store.read(f"{folder}/model.safetensors")).items() if name in own
        }
        self.fusion.load_state_dict(
            own | {name: weight for name, weight in weights.items() if same or not name.startswith("answer_head")}
        )
        for unused in self.fusion.unused(model):
            unused.requires_grad_(False)
        self._numbers: dict[tuple[int, ...], int] = {}

    def use_tokenizer(self, tokenize: Tokenizer) -> None:
        """Learn which tokens each answer has, without those at start and end."""
        tokens = [tuple(row[1:-1]) for row in tokenize.ragged(self.config.answers)]
        self._numbers = {row: number for number, row in enumerate(tokens)}
        if len(self._numbers) < len(tokens) or () in self._numbers:
            raise ConfigError("two of objective.answers are the same words, or one has none")

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Answer the questions of ``texts`` (b, context) about ``images``.

        These are pixels (b, 3, h, config.images * w), or regions (b, config.images * most, columns).

        ``answer`` is each sample's loss, ``right`` whether the likeliest answer is its own, ``answered`` whether it has
        one: if not, the others are 0.
        """
        questions, lengths, numbers = self.split(texts.cpu())
        device = images.device
        seen = self.fusion.read_images(self.model, self.fusion.apart(images))
        words = self.fusion.read_texts(self.model, questions, lengths)
        logits = answer(self.fusion, self.model, words, lengths, seen, torch.arange(len(texts), device=device))
        targets = to_device(numbers.clamp(min=0), device)
        answered = to_device(numbers >= 0, device).to(logits.dtype)
        losses = F.cross_entropy(logits, targets, reduction="none") * answered
        right = (logits.argmax(-1) == targets) * answered
        return {"answer": losses, "right": right.detach(), "answered": answered}

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss, the share of ``right`` answers, and that of captions that are ``answered``."""
        return {
            "loss": global_mean(outputs["answer"], outputs["answered"]),
            "right": global_mean(outputs["right"], outputs["answered"]),
            "answered": outputs["answered"].mean(),
        }

    def split(self, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take the answers off ``texts`` (b, context): the questions, their lengths (b,), the answers' numbers (b,).

        The longest answer counts that a text ends with; a text without any stays whole, with the number -1.
        """
        questions, numbers = texts.clone(), torch.full((len(texts),), -1)
        widths = sorted({len(tokens) for tokens in self._numbers}, reverse=True)
        for row, (text, length) in enumerate(zip(texts.tolist(), lengths_of(texts).tolist(), strict=True)):
            for width in widths:
                number = self._numbers.get(tuple(text[length - 1 - width : length - 1]))
                if number is not None and length - 2 > width:  # a word of the question is left
                    numbers[row] = number
                    questions[row, length - 1 - width] = text[length - 1]
                    questions[row, length - width :] = 0
                    break
        return questions, lengths_of(questions), numbers

    def companions(self) -> dict[str, Companion]:
        return {FOLDER: Companion(self.fusion, self.described)}
