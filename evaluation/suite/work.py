"""Add up a suite's scores, and write its table, its summary and mteb's form."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

import pyarrow as pa

from evaluation.suite.averages import groups, read_figures
from evaluation.suite.config import Config
from evaluation.suite.mteb import task_result
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

__all__ = ["add_up"]

log = logging.getLogger(__name__)


def add_up(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Write the averages of the inputs ``scores_...``, their table, the summary and mteb's files."""
    suite, given = config.suite, config.given("scores", inputs)
    found, missing = read_figures(suite, given)
    averages = groups(suite, found, missing)
    if missing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        log.warning("%d of %d sets of %s have no score: %s", len(missing), len(suite.sets), suite.name, reasons)

    metrics: dict[str, float] = {}
    for group in averages:
        if (figure := group.mean) is not None:
            metrics |= {
                group.metric: figure.value,
                f"{group.metric}_low": figure.low,
                f"{group.metric}_high": figure.high,
            }
    rows = [
        {
            "set": name,
            "task": entry.task,
            "metric": entry.main,
            "value": found[name].value if name in found else None,
            "low": found[name].low if name in found else None,
            "high": found[name].high if name in found else None,
            "groups": list(entry.groups),
            "missing": missing.get(name, ""),
        }
        for name, entry in suite.sets.items()
    ]
    context.output.write_table("data/sets.parquet", pa.Table.from_pylist(rows, _schema()))
    summary = {"suite": suite.name, "averages": {}, "missing": missing, "sets": rows}
    summary["averages"] = {
        group.metric: {
            "value": group.mean.value if group.mean else None,
            "bounds": [group.mean.low, group.mean.high] if group.mean else None,
            "sets": list(group.sets),
            "missing": sorted(group.missing),
        }
        for group in averages
    }
    context.output.write("data/suite.json", json.dumps(summary, indent=1).encode() + b"\n")
    for name, entry in suite.sets.items():
        if name in found:
            result = task_result(name, entry, suite.folders(name), given)
            path = f"data/mteb/{result['task_name'].replace('/', '_')}.json"
            context.output.write(path, json.dumps(result, indent=2).encode() + b"\n")
    counts = {"sets": len(suite.sets), "scored": len(found), "missing": missing}
    return context.finish(metrics=metrics, facts={**counts, "main": averages[-1].metric, "tables": ["sets"]})


def _schema() -> object:
    number, text = pa.float64(), pa.string()
    columns = {"set": text, "task": text, "metric": text, "value": number, "low": number, "high": number}
    return pa.schema({**columns, "groups": pa.list_(text), "missing": text})
