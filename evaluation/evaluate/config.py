"""The configuration of an evaluation: which task, which model, how the intervals are computed, where it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from evaluation.tasks import Task
from infra.config import Input, Runtime, StageConfig
from infra.encoder import Precision, check_architecture
from infra.errors import UsageError

__all__ = ["Config"]


class Config(StageConfig):
    code_version: ClassVar[int] = 2
    inputs: ClassVar[Mapping[str, Input]] = {
        "model": Input("model", required=False, description="a trained or adopted model; or else pretrained is set"),
        "dataset": Input("testsets", description="test sets in CLIP_benchmark's layout"),
    }
    produces: ClassVar[tuple[str, ...]] = ("scores",)

    task: Task = Field(description="what is measured, and on which test set")
    model: str | None = Field(
        None, description="open_clip's name of the architecture: for a bare checkpoint file, or with pretrained"
    )
    pretrained: str | None = Field(None, description="tag of open_clip's published weights of that architecture")
    precision: Precision = Field("fp32", description="fp32, or autocast to bf16 or fp16, while encoding")
    bootstrap: int = Field(1000, ge=1, description="resamples of the images behind each confidence interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: int = Field(0, description="seed of the resampling")
    batch_size: Runtime[int] = Field(64, ge=1, description="images or texts encoded at once")
    cpus: Runtime[int] = Field(1, ge=1, description="CPU cores of the task, one torch thread each")
    gpus: Runtime[float] = Field(0.0, ge=0, description="GPUs of the task, a Ray resource; 0.5: two tasks share one")
    device: Runtime[str] = Field("auto", description="auto (CUDA where the task has a GPU), cpu or cuda")

    @field_validator("model", "pretrained")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        # A path or a hub's address may hold other weights tomorrow under the same name.
        if value is not None and any(mark in value for mark in ("/", "\\", ":")):
            raise ValueError("a name that open_clip knows; a file or folder enters as the input 'model' through adopt")
        return value

    @field_validator("model")
    @classmethod
    def _exists(cls, value: str | None) -> str | None:
        if value is not None:
            check_architecture(value)
        return value

    def check_inputs(self, given: Collection[str]) -> None:
        if "model" in given and self.pretrained is not None:
            raise UsageError(
                "the model to evaluate is named twice",
                expected="an input 'model', or the fields model and pretrained",
                found=f"an input 'model' and pretrained={self.pretrained!r}",
            )
        if "model" not in given and not (self.model and self.pretrained):
            raise UsageError(
                "no model to evaluate is given",
                expected="an input 'model', or the fields model and pretrained",
                found=f"model={self.model!r}, pretrained={self.pretrained!r}",
            )
