"""The code that is sent along: what git tracks, as it is now, and nothing that lies around it."""

import io
import subprocess
import zipfile

import pytest

from infra.errors import UsageError
from workflows.submit.snapshot import snapshot


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "checkout/mine"
    (folder / "deep").mkdir(parents=True)
    for path in ("a.py", "deep/b.py", "gone.py", ".env", "deploy.pem"):
        (folder / path).write_text(path)
    (tmp_path / "data.bin").write_bytes(b"data")
    (folder / "link").symlink_to(tmp_path / "data.bin")
    return folder


def track(folder):
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=folder.parent, check=True)


def unpacked(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {path: archive.read(path) for path in archive.namelist()}


def test_what_git_tracks_goes_along_as_it_is_now(package):
    track(package)
    (package / "a.py").write_text("changed")
    (package / "gone.py").unlink()
    (package / "new.py").write_text("new")
    made = snapshot([package], {"submission.json": b"{}"})
    assert unpacked(made.data) == {"submission.json": b"{}", "mine/a.py": b"changed", "mine/deep/b.py": b"deep/b.py"}
    assert (made.files, sorted(made.left)) == (3, ["mine/.env", "mine/deploy.pem", "mine/new.py"])
    (package / "deep").touch()
    assert snapshot([package], {"submission.json": b"{}"}).data == made.data


def test_without_git_the_files_of_the_package_go_along(package):
    (package / "__pycache__").mkdir()
    (package / "__pycache__/a.pyc").write_bytes(b"")
    assert sorted(unpacked(snapshot([package], {}).data)) == ["mine/a.py", "mine/deep/b.py", "mine/gone.py"]


def test_data_in_the_code_is_refused_by_name(package):
    (package / "vectors.npy").write_bytes(b"0" * 2000)
    with pytest.raises(UsageError, match=r"(?s)at most 0\.0 MB.*mine/vectors\.npy"):
        snapshot([package], {}, limit=2000)
