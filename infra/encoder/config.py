"""Base of the configurations of stages that encode images and texts: the model, and the device it runs on."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from infra.config import Runtime, StageConfig
from infra.encoder import Precision, check_architecture
from infra.errors import UsageError
from infra.extras import require
from infra.formats.architecture import check_fits
from infra.formats.weights import read_shapes

if TYPE_CHECKING:
    from infra.captioning.captioner import ModelCaptioner
    from infra.encoder.open_clip import OpenClipEncoder
    from infra.fusion.encoder import FusionEncoder
    from infra.run.manifest import Artifact

__all__ = ["EncoderConfig"]


class EncoderConfig(StageConfig):
    """Base of the configurations of stages with an input ``model``, which ``model`` and ``pretrained`` may replace."""

    model: str | None = Field(
        None, description="open_clip's name of the architecture: for a bare checkpoint file, or with pretrained"
    )
    pretrained: str | None = Field(None, description="tag of open_clip's published weights of that architecture")
    precision: Precision = Field("fp32", description="fp32, or autocast to bf16 or fp16, while encoding")
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

    def extras(self) -> tuple[str, ...]:
        return ("train",)

    def check_inputs(self, given: Collection[str]) -> None:
        if "model" in given and self.pretrained is not None:
            raise UsageError(
                "the model is named twice",
                expected="an input 'model', or the fields model and pretrained",
                found=f"an input 'model' and pretrained={self.pretrained!r}",
            )
        if "model" not in given and not (self.model and self.pretrained):
            raise UsageError(
                "no model is given",
                expected="an input 'model', or the fields model and pretrained",
                found=f"model={self.model!r}, pretrained={self.pretrained!r}",
            )

    def check_model(self, model: Artifact | None) -> None:
        """Raise DataError if the weights are not those of the architecture that is named, before a task asks for a GPU.

        Weights with their configuration beside them were checked when they were adopted.
        """
        files = model.files("data/") if model is not None else []
        if model is not None and len(files) == 1 and self.model is not None:
            check_fits(self.model, read_shapes(model.store, files[0].path), model.url(files[0].path))

    def encoder(self, model: Artifact | None, *, batch_size: int, cpus: float, gpus: float) -> OpenClipEncoder:
        """Load the model on its device, with as many threads of torch as the task has cores.

        Raises DataError if it cannot be used.
        """
        require(["train"], "a model that encodes")
        import torch

        from infra.encoder.open_clip import load_encoder

        torch.set_num_threads(max(1, int(cpus)))
        device = self.device
        if device == "auto":
            # Where the task was granted no GPU it takes none, even if the node has one: it may be another task's.
            device = "cuda" if gpus > 0 and torch.cuda.is_available() else "cpu"
        return load_encoder(
            model or str(self.model),
            self.pretrained,
            model=self.model,
            device=device,
            precision=self.precision,
            batch_size=batch_size,
        )

    def matcher(self, model: Artifact, *, batch_size: int, cpus: float, gpus: float) -> FusionEncoder:
        """Load the fusion encoder of a trained model, and its towers. Raises DataError if it has none."""
        from infra.fusion.encoder import load_fusion

        return load_fusion(self.encoder(model, batch_size=batch_size, cpus=cpus, gpus=gpus), model)

    def captioner(self, model: Artifact, *, batch_size: int, cpus: float, gpus: float) -> ModelCaptioner:
        """Load what writes captions in a trained model, and its towers. Raises DataError if nothing does."""
        from infra.captioning.captioner import load_captioner

        return load_captioner(self.encoder(model, batch_size=batch_size, cpus=cpus, gpus=gpus), model)
