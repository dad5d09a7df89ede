"""Balance: flatten the distribution of caption topics by MetaCLIP's rule (Xu et al. 2023)."""

from pipelines.curate.balance.config import Config
from pipelines.curate.balance.stage import run

__all__ = ["Config", "run"]
