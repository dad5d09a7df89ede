"""No package comes in whose licence is unknown, not for everybody, or unread."""

from __future__ import annotations

import sys

import pytest

from tests import licences

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the list is of Linux")


@ON_LINUX
def test_every_package_has_a_licence_that_was_read():
    found = {one.name: licences.unread(one.licence) for one in licences.packages()}
    assert {name: parts for name, parts in found.items() if parts} == {}


@ON_LINUX
def test_every_package_is_pinned_and_needed():
    listed = licences.packages()
    needed = licences.everything()
    assert needed == {one.name for one in listed}
    assert "nothing" not in {one.needed for one in listed}


@ON_LINUX
def test_the_page_is_the_list():
    page = (licences.REPO / "docs/licences.md").read_text()
    assert page == licences.markdown(), "python -m tests.licences > docs/licences.md"


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        ("MIT", []),
        ("Apache-2.0 AND MIT", []),
        ("GPL-3.0-only OR MIT", []),
        ("CC-BY-NC-4.0", ["CC-BY-NC-4.0"]),
        ("MIT AND CC-BY-NC-4.0", ["CC-BY-NC-4.0"]),
        ("AGPL-3.0-only", ["AGPL-3.0-only"]),
        ("unknown", ["unknown"]),
        ("", [""]),
    ],
)
def test_what_nobody_has_read_is_found(expression, left):
    assert licences.unread(expression) == left


def test_metadata_of_every_age_is_understood(monkeypatch):
    from email.message import Message

    def told(**fields: str | list[str]) -> str:
        about = Message()
        for name, values in fields.items():
            for value in [values] if isinstance(values, str) else values:
                about[name.replace("_", "-")] = value
        monkeypatch.setattr(licences, "metadata", lambda name: about)
        return licences.licence("some-package")

    assert told(License_Expression="MIT", Classifier="License :: OSI Approved :: BSD License") == "MIT"
    assert told(Classifier=["License :: OSI Approved", "License :: OSI Approved :: MIT License"]) == "MIT"
    assert told(License="Apache 2.0") == "Apache-2.0"
    assert told(License="CC BY-NC 4.0\nfor research only") == "CC BY-NC 4.0"
    assert licences.unread(told(License="CC BY-NC 4.0")) != []
    assert told(Classifier="Topic :: Text Processing") == "unknown"
