"""The Dockerfile: what it stands on is pinned, nothing runs as root, and an edit of the code repeats little."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from dataclasses import dataclass, field

import pytest
from files import DEPLOY, REPO

FILE = DEPLOY / "images/Dockerfile"
KINDS = ("curate", "cpu", "train")


@dataclass
class Stage:
    """A stage of the build: what it stands on, and its instructions."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def build():
    """The arguments before the first stage, and the stages by name."""
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE)
    arguments, stages = {}, {}
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            stages[name] = Stage(name, base)
        elif word and stages:
            stages[name].steps.append((word, rest))
        elif word:
            assert word == "ARG"
            key, _, value = rest.partition("=")
            arguments[key] = value
    return arguments, stages


def chain(build, kind: str, name: str = "image") -> list[Stage]:
    """A stage and all that it stands on, first the base."""
    arguments, stages = build
    found = []
    while name in stages:
        found.append(stages[name])
        name = stages[name].base.replace("${KIND}", kind)
    assert re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], name) in arguments.values()
    return found[::-1]


def test_bases_are_pinned_to_a_release(build):
    arguments, stages = build
    images = [value for key, value in arguments.items() if key.endswith("_IMAGE")]
    assert len(images) == 2
    assert all(re.fullmatch(r"[\w/]+:\d+\.\d+\.\d+-\S+", image) for image in images)
    known = {*stages, *(f"${{{key}}}" for key in arguments)}
    assert all(stage.base in known or "${KIND}" in stage.base for stage in stages.values())


def test_python_is_the_one_that_constraints_are_made_for(build):
    (wanted,) = re.findall(r"--python-version (\S+)", (REPO / "Makefile").read_text())
    assert build[0]["PYTHON_IMAGE"].startswith(f"python:{wanted}.")
    assert f"python{wanted} -c" in FILE.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_stages_and_no_root(build, kind):
    steps = [step for stage in chain(build, kind) for step in stage.steps]
    words = [word for word, _ in steps]
    user = max(index for index, word in enumerate(words) if word == "USER")
    assert steps[user][1] == "1000:1000"
    assert not {"RUN", "COPY", "ADD"} & set(words[user:])
    assert words.count("HEALTHCHECK") == words.count("ENTRYPOINT") == 1
    assert f"packages-{kind}" in build[1]


@pytest.mark.parametrize("kind", KINDS)
def test_packages_are_installed_before_the_code_is_copied(build, kind):
    """So an edit of the code does not download torch again."""
    steps = [step for stage in chain(build, kind, "packages") for step in stage.steps]
    installs = [text for word, text in steps if word == "RUN" and "uv pip install" in text and "/wheel" not in text]
    assert installs
    assert all("--constraint constraints.txt --requirements pyproject.toml" in text for text in installs)
    copied = {path for word, text in steps if word == "COPY" for path in text.split()[:-1]}
    assert copied == {"pyproject.toml", "constraints.txt"}
    assert "--no-deps /wheel/*.whl" in steps[-1][1]


def test_only_the_others_have_torch(build):
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    for kind in KINDS:
        text = " ".join(text for stage in chain(build, kind, "packages") for _, text in stage.steps)
        assert set(re.findall(r"--extra (\S+)", text)) <= set(project["optional-dependencies"]) - {"train", "all"}
        assert ("--all-extras" in text) == (kind != "curate")


def test_the_wheel_is_made_of_what_the_builder_gets(build):
    patterns = [line for line in (REPO / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    packages = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {path for word, text in build[1]["wheel"].steps if word == "COPY" for path in text.split()[:-1]}
    assert {*packages["packages"], "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == copied
    assert packages["exclude"] == ["infra/deploy"]

    def sent(path: str) -> bool:
        gone = False
        for pattern in patterns:  # the last that matches decides, of the path or of a folder it is in
            parts = path.split("/")
            heads = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
            if any(fnmatch.fnmatch(head, pattern.lstrip("!").removeprefix("**/")) for head in (*heads, *parts)):
                gone = not pattern.startswith("!")
        return not gone

    assert all(sent(path) for path in copied)
    unsent = (".git/config", ".clipline/runs/x", ".venv/bin/python", "infra/deploy/compose/secrets/ray_token", ".env")
    assert not any(sent(path) for path in (*unsent, "tests/conftest.py", "infra/__pycache__/x.pyc", "workflows/.env"))


def test_nothing_secret_or_unpinned_comes_in(build):
    text = FILE.read_text()
    assert not re.search(r"(?i)(password|secret|token|_key)\w*=", text)
    assert not re.search(r"(?m)^ADD|curl |https?://(?!127\.0\.0\.1)|:latest", text)
    for stage in build[1].values():
        for word, step in stage.steps:
            if word == "RUN" and "apt-get install" in step:
                assert "--no-install-recommends" in step
                assert "rm -rf /var/lib/apt/lists/*" in step


def test_labels_say_what_an_image_is(build):
    (labels,) = (text for word, text in build[1]["image"].steps if word == "LABEL")
    assert set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels)) == {
        "title", "description", "licenses", "version", "revision",
    }  # fmt: skip


def test_what_probes_of_kuberay_call_is_in_every_image(build):
    for kind in KINDS:
        installed = " ".join(text for stage in chain(build, kind) for word, text in stage.steps if word == "RUN")
        assert {"wget", "procps", "tini"} <= set(installed.split())
