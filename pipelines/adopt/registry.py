"""Models of an MLflow registry: ``models:/name@alias``, ``models:/name/3``, or a logged model, ``models:/m-...``.

The registry is that of ``MLFLOW_TRACKING_URI``, or of the runs below the root. What lies on this machine is used in
place. A version never changes, so what was fetched once is not fetched again; an alias is looked up each time.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from infra.errors import ConfigError, redact
from infra.run.root import root
from infra.store import open_store
from infra.tracking.address import Address
from infra.tracking.client import environment, is_missing, open_client
from pipelines.adopt.published import Pick, models_folder

__all__ = ["fetch"]

_NAMED = re.compile(r"models:/(?:(?P<logged>m-[0-9a-f]{32})|(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+)))")
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def fetch(name: str, pick: Pick) -> str:
    """The folder of a model's files. Raises ConfigError if there is no such model, or the registry cannot be asked."""
    match = _NAMED.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"{name} names no model of a registry",
            expected="models:/name@alias, models:/name/3, or models:/m-... of a logged model",
        )
    address = Address.find(open_store(root()))
    if address.database and not address.database.is_file():
        raise ConfigError(
            f"there is no model registry for {name}",
            expected="MLFLOW_TRACKING_URI, or a root with runs (--root, CLIPLINE_ROOT)",
            found=f"no {address.database}",
        )
    with _asked(address.uri, name):
        client = open_client(address)
        uri = _location(client, match, name)
    local = urlparse(uri)
    if local.scheme in ("", "file"):
        folder = unquote(local.path) if local.scheme else uri
    else:
        folder = _downloaded(uri, address.uri)
    if not Path(folder).is_dir():
        raise ConfigError(f"the files of {name} are not there", expected=folder, found="no such folder")
    return folder


def _location(client: MlflowClient, match: re.Match[str], name: str) -> str:
    """The URI of the model's files. Raises ConfigError, saying what there is."""
    try:
        if match["logged"]:
            return str(client.get_logged_model(match["logged"]).artifact_location)
        if match["alias"]:
            version = client.get_model_version_by_alias(match["name"], match["alias"])
        else:
            version = client.get_model_version(match["name"], match["version"])
        return str(client.get_model_version_download_uri(version.name, version.version))
    except MlflowException as error:
        if not is_missing(error):
            raise
        raise ConfigError(
            f"the model registry has no {name}", expected="a name and alias or version that it has",
            found="; ".join(_known(client)) or "no model",
        ) from None  # fmt: skip


def _known(client: MlflowClient) -> Iterator[str]:
    """Names of registered models, with their aliases and last versions."""
    for model in client.search_registered_models(max_results=20):
        versions = [int(version.version) for version in client.search_model_versions(f"name = '{model.name}'")]
        aliases = ", ".join(f"@{alias}" for alias in sorted(model.aliases))
        yield (
            f"{model.name} {aliases} versions {min(versions)} to {max(versions)}" if versions else f"{model.name} empty"
        )


@contextmanager
def _asked(uri: str, name: str) -> Iterator[None]:
    """Ask the registry with little patience. Raises ConfigError if it does not answer."""
    with ExitStack() as stack:
        for variable, value in _PATIENCE.items():
            stack.enter_context(environment(variable, os.environ.get(variable) or value))
        try:
            yield
        except MlflowException as error:
            raise ConfigError(
                f"the model registry cannot be asked for {name}",
                expected=f"an MLflow server or database at {redact(uri)}",
                found=str(error).partition("\n")[0][:300],
            ) from error  # fmt: skip


def _downloaded(uri: str, tracking_uri: str) -> str:
    """The folder to which the files at ``uri`` were downloaded, now or before."""
    folder = models_folder() / hashlib.sha256(f"{tracking_uri}\n{uri}".encode()).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, _asked(tracking_uri, uri):
            found = Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=tracking_uri))
            if not folder.is_dir():  # by another process meanwhile
                shutil.move(str(found), folder)
    return str(folder)
