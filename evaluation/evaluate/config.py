"""The configuration of an evaluation: which task, how the intervals are computed, where it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field

from evaluation.tasks import Task
from infra.config import Input, Runtime
from infra.encoder.config import EncoderConfig

__all__ = ["Config"]


class Config(EncoderConfig):
    code_version: ClassVar[int] = 7
    inputs: ClassVar[Mapping[str, Input]] = {
        "embeddings": Input("embedded_testsets", description="the test sets as vectors of the model"),
        "model": Input("model", required=False, description="the model, for prompts of a task's own"),
        "dataset": Input("testsets", description="test sets"),
        "prompts": Input("prompts", required=False, description="files with prompts, in place of the set's own"),
    }
    produces: ClassVar[tuple[str, ...]] = ("scores",)

    task: Task = Field(description="what is measured, and on which test set")
    bootstrap: int = Field(1000, ge=1, description="resamples of the images, behind intervals and comparisons")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: int = Field(0, description="seed of the resampling")
    batch_size: Runtime[int] = Field(64, ge=1, description="texts encoded at once")
    cpus: Runtime[int] = Field(1, ge=1, description="CPU cores of the task, one torch thread each")
    gpus: Runtime[float] = Field(0.0, ge=0, description="GPUs of the task, a Ray resource; 0.5: two tasks share one")

    def extras(self) -> tuple[str, ...]:
        return ()  # vectors need no model; what needs one says so when it is loaded

    def check_inputs(self, given: Collection[str]) -> None:
        # Only a task with texts of its own needs the model again.
        if "model" in given or self.pretrained is not None:
            super().check_inputs(given)
