"""Models of a Hugging Face hub: ``hf-hub:org/name``, or ``hf-hub:org/name@revision``.

The files that count are fetched into the hub's own cache (``HF_HOME``). Where the hub cannot be reached, what the cache
has is used.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, constants, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    CacheNotFound,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from infra.errors import ConfigError
from infra.hub import PATIENCE_S, HTTPError
from pipelines.adopt.published import Pick

__all__ = ["fetch"]

_NAMED = re.compile(r"hf-hub:(?P<repository>[^@]+?)(?:@(?P<revision>.+))?")


def fetch(name: str, pick: Pick) -> str:
    """The folder of a repository's files. Raises ConfigError if there is none, or none can be had."""
    match = _NAMED.fullmatch(name)
    if match is None:
        raise ConfigError(f"{name} names no repository", expected="hf-hub:org/name, or hf-hub:org/name@revision")
    repository, revision = match["repository"], match["revision"]
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=PATIENCE_S)
        files = pick([file.rfilename for file in info.siblings or ()])
        if not files:
            raise ConfigError(
                f"{name} is no model in open_clip's layout", expected="open_clip_config.json and weights",
                found=", ".join(file.rfilename for file in (info.siblings or ())[:5]),
            )  # fmt: skip
        return snapshot_download(repository, revision=revision, allow_patterns=files, etag_timeout=PATIENCE_S)
    except HFValidationError as error:
        raise ConfigError(f"{name} names no repository", expected="hf-hub:org/name", found=str(error)[:200]) from None
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"the hub has no model {repository}, or not for you", expected=f"a repository at {constants.ENDPOINT}",
            found=str(error).partition("\n")[0][:200],
        ) from None  # fmt: skip
    except (OSError, HTTPError) as error:  # not reached, offline, or it answered with an error
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            found = str(error).partition("\n")[0][:200]
            raise ConfigError(f"the hub does not give {name}", found=found) from None
        return _from_cache(name, repository, revision, pick, error)


def _from_cache(name: str, repository: str, revision: str | None, pick: Pick, error: Exception) -> str:
    """The folder in the hub's cache. Raises ConfigError if the cache does not have the files."""
    try:
        cached = [one for one in scan_cache_dir().repos if one.repo_id == repository and one.repo_type == "model"]
    except CacheNotFound:
        cached = []
    wanted = revision or "main"
    folders = [one.snapshot_path for repo in cached for one in repo.revisions if wanted in (one.commit_hash, *one.refs)]
    folder = folders[0] if folders else Path()
    there = [str(path.relative_to(folder)) for path in folder.rglob("*")] if folders else []
    if not pick(there):
        raise ConfigError(
            f"{name} cannot be had",
            expected=f"the hub at {constants.ENDPOINT}, or its files in {constants.HF_HUB_CACHE}",
            found=f"{type(error).__name__}: {error}".partition("\n")[0][:200],
            fix="fetch it where there is a network, and give its folder as the model",
        )
    return str(folder)
