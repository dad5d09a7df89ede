"""MLflow as a projection of a run's journal. Importing this package does not import mlflow."""

import os

from infra.tracking.address import Address
from infra.tracking.tracker import Tracker

__all__ = ["Address", "Tracker"]

# MLflow tells its makers of its use unless this is set when it is imported. Who wants that can say so: "false".
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
