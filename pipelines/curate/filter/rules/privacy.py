"""The rule on personal data in captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipelines.curate.filter.rules.base import Answers, Rule

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Pii"]

Kind = Literal["email", "phone", "card", "iban", "ip"]


class Pii(Rule):
    """Drops captions with personal data, or masks it: ``write to [email]``.

    Numbers of cards and accounts count if their check digits are right, phone numbers if phonenumbers (Google's
    libphonenumber) takes them for valid, addresses of the internet if they are those of a public network.
    """

    columns = ("caption",)

    of: tuple[Kind, ...] = Field(("email", "phone", "card", "iban", "ip"), min_length=1, description="what to look for")
    regions: tuple[str, ...] = Field(
        (), description="countries, as ISO 3166 codes, whose phone numbers count without a country's prefix, too"
    )
    action: Literal["drop", "mask"] = Field("drop", description="drop the row, or mask what was found")

    def keeps(self, rows: pa.Table) -> Answers:
        if self.action == "mask":
            return [True] * rows.num_rows
        return _pii().is_free(rows["caption"], self.of, self.regions)

    def rewrites(self, rows: pa.Table) -> Mapping[str, Any]:
        return {"caption": _pii().masked(rows["caption"], self.of, self.regions)} if self.action == "mask" else {}

    def hidden(self, text: str) -> str:
        """``text`` as a figure may show it."""
        masked: str = _pii().mask(text, self.of, self.regions)
        return masked


def _pii() -> Any:  # noqa: ANN401 - a module
    """Functions that find personal data; they import what planning does without."""
    from pipelines.curate.filter import pii

    return pii
