"""MLflow as a projection of a run's journal. Importing this package does not import mlflow."""

from infra.tracking.address import Address
from infra.tracking.tracker import Tracker

__all__ = ["Address", "Tracker"]
