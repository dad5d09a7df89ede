"""One shard through img2dataset itself."""

import pyarrow as pa
import pyarrow.parquet as pq


def download(img2dataset, rows, folder, **options):
    """The rows of the Parquet that img2dataset's downloader writes for the table ``rows``, in their order."""
    from img2dataset.writer import WebDatasetSampleWriter

    folder.mkdir()
    feather = str(folder / "0.feather")
    with pa.OSFile(feather, "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    downloader = img2dataset.downloader.Downloader(
        **{
            "sample_writer_class": WebDatasetSampleWriter,
            "resizer": img2dataset.resizer.Resizer(256, "keep_ratio", True),
            "thread_count": 2,
            "save_caption": "caption" in rows.column_names,
            "extract_exif": True,
            "output_folder": str(folder),
            "column_list": rows.column_names,
            "timeout": 10,
            "number_sample_per_shard": 10,
            "oom_shard_count": 5,
            "compute_hash": "sha256",
            "verify_hash_type": None,
            "encode_format": "jpg",
            "retries": 0,
            "user_agent_token": None,
            "disallowed_header_directives": None,
            **options,
        }
    )
    downloader.download_shard((0, feather))
    return pq.read_table(folder / "00000.parquet").sort_by("key").to_pylist()
