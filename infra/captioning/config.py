"""The family of ways to choose a caption's tokens, light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from infra.config import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from infra.captioning.decoder import Decoder

__all__ = ["Beam", "Decoding", "Greedy", "Nucleus"]


class Decoding(Choice):
    """Way to write captions with a decoder that says how likely each next token is.

    ``implementation`` is a function of the decoder and this configuration, unless a member has :meth:`search` itself.
    """

    longest: int = Field(
        77, ge=3, description="most tokens of a caption with those at start and end; the model's context if less"
    )
    shortest: int = Field(0, ge=0, description="tokens before a caption may end, that at its start among them")

    def search(self, decoder: Decoder) -> Tensor:
        """Write a caption for each of the decoder's images: tokens (images, t), filled up with ``decoder.pad``."""
        found: Tensor = self.implemented()(decoder, self)
        return found


class Greedy(Decoding):
    """The likeliest token each time."""

    implementation: ClassVar[str] = "infra.captioning.search:greedy"


class Nucleus(Decoding):
    """Random tokens, drawn from the fewest that have ``top_p`` of the probability (Holtzman et al., 2020)."""

    implementation: ClassVar[str] = "infra.captioning.search:nucleus"

    top_p: float = Field(0.9, gt=0, le=1, description="probability of the tokens that are drawn from")
    temperature: float = Field(1.0, gt=0, description="divides the logits; below 1 likely tokens become likelier")
    seed: int = Field(0, ge=0, description="of the draws, which are an image's own, whatever the batch")


class Beam(Decoding):
    """The best caption that is found by carrying ``beams`` along.

    A caption's score is its log-likelihood divided by its tokens to the power of ``length_penalty``, as in
    transformers' beam search.
    """

    implementation: ClassVar[str] = "infra.captioning.search:beam"

    beams: int = Field(5, ge=1, description="captions that are carried along for each image")
    length_penalty: float = Field(1.0, description="above 0 long captions lose less; 0: the likeliest wins")
