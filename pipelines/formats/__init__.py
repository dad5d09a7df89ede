"""Archive formats: WARC and WAT records, and their files, local or remote."""
