"""The urls stage without Ray."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from adopting import adopted

from infra.run.context import Context, ShardOutput
from infra.run.pieces import Records
from pipelines.urls import shard, summary
from pipelines.urls.config import Config
from pipelines.urls.files import list_files
from pipelines.urls.plan import columns_of, plan


def read(path: str | Path, folder: Path, **options) -> tuple[pa.Table, list[dict], dict]:
    """The pairs, the dropped rows and the funnel's dropped counts of a list."""
    table, dropped, manifest = read_all(path, folder, **options)
    return table, dropped, manifest["dropped"]


def read_all(path: str | Path, folder: Path, **options) -> tuple[pa.Table, list[dict], dict]:
    """The pairs, the dropped rows, and the funnel and the facts of a list."""
    context, config = Context(folder), Config(**options)
    files = list_files([adopted(path, "url_list", format=config.input_format)], config.input_format)
    surveys = [shard.survey(config, file, ShardOutput(context.store, f"survey-{n}")) for n, file in enumerate(files)]
    summary.report(files, surveys)
    columns = columns_of(files, surveys, config)
    meaning = plan(files, surveys, columns, config)
    records = [
        shard.write_pairs(meaning, part, ShardOutput(context.store, part.name))
        for number, (file, record, own) in enumerate(zip(files, surveys, columns, strict=True))
        if own
        for part in shard.parts(number, file, record, own)
    ]
    written = [file.path for record in records for file in record.files]
    tables = [pq.read_table(folder / path) for path in written if "dropped" not in path]
    dropped = [row for path in written if "dropped" in path for row in pq.read_table(folder / path).to_pylist()]
    return (
        pa.concat_tables(tables) if tables else meaning.schema.empty_table(),
        dropped,
        {**Records(context.store, rest=records).funnel("rows").to_json(), **summary.facts(surveys, columns, records)},
    )
