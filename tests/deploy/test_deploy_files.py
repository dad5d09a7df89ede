"""What can be checked of infra/deploy without a cloud: files parse, agree with each other and fit their schemas."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from files import DEPLOY, OVERLAYS, PORTS, REPO, YAML, documents, mappings, pinned, version

from infra.cluster.objects import wanted_bytes
from workflows.recipe import load

FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "secrets" not in path.parts)
PAGE = REPO / "docs/operations.md"
SCRIPTS = [path for path in FILES if path.suffix in (".sh", ".sbatch")]


def name(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


@pytest.mark.parametrize("path", YAML, ids=name)
def test_every_file_is_yaml(path):
    assert documents(path.read_text())


def test_scripts_pass_shellcheck():
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, "--shell=bash", *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_cluster_files_fit_the_schema_of_ray(cloud):
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    (cluster,) = documents((DEPLOY / f"ray/{cloud}.yaml").read_text())
    jsonschema.Draft7Validator(schema).validate(cluster)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    most = sum(node.get("max_workers", 0) for node in cluster["available_node_types"].values())
    assert cluster["max_workers"] == most


# --- versions and names


def test_images_have_the_version_of_the_project():
    tags = [
        tag
        for path in FILES
        for tag in re.findall(r"clipline-(?:curate|cpu|train|\$\{KIND:-cpu\}):([\w.]+)", path.read_text())
    ]
    assert len(tags) > 5
    assert set(tags) == {version()}
    kinds = documents((DEPLOY / "kubernetes/images/kustomization.yaml").read_text())[0]["images"]
    assert {kind["newTag"] for kind in kinds} == {version()}


def test_ray_has_the_version_of_the_constraints():
    found = [version for path in YAML for version in re.findall(r'rayVersion: "(.*)"', path.read_text())]
    assert set(found) == {pinned("ray")}


def test_ports_are_the_same_everywhere():
    for path in YAML:
        for mapping in mappings(documents(path.read_text())):
            if mapping.get("name") in PORTS and "containerPort" in mapping:
                assert mapping["containerPort"] == PORTS[mapping["name"]], path
    for path in FILES:
        text = path.read_text()
        assert set(re.findall(r"mlflow:(\d+)", text, re.IGNORECASE)) <= {"5000"}, path
        assert set(re.findall(r"(?:head|HEAD\"?|RAY_HEAD_IP):(\d+)", text)) <= {"6379"}, path
        assert set(re.findall(r"(?:--port[= ])(\d+)", text)) <= {"6379", "5000"}, path


def test_recipes_and_settings_in_the_files_are_those_there_are():
    found = 0
    for path in (*FILES, PAGE):
        text = re.sub(r"\\?\n\s*", " ", path.read_text())
        for recipe, line in re.findall(
            r"(?:clipline run|clipline.sbatch) (\w+)((?: +--(?:set +['\"]?[\w.]+=\S+|wait))+)", text
        ):
            known = {parameter.name for parameter in load(recipe).parameters}
            assert set(re.findall(r"--set +['\"]?(\w+)=", line)) <= known, (path, line)
            found += 1
    assert found >= 6


@pytest.mark.filterwarnings("ignore")  # MLflow's, on import
def test_commands_of_ray_and_mlflow_have_their_options():
    from mlflow.cli import cli as mlflow
    from ray.scripts.scripts import start

    commands = {"ray start": start, "mlflow server": mlflow.commands["server"]}
    known = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in commands.items()
    }
    asked = dict.fromkeys(known, 0)
    for path in FILES:
        text = re.sub(r"\\?\n\s*(?:- )?", " ", path.read_text()).replace('", "', " ")
        for program, words in re.findall(r"(ray start|mlflow server)((?: +-{1,2}[a-z][^\s\"]*| +[^\s-]\S*)*)", text):
            used = set(re.findall(r"(?<= )--[a-z-]+", words.partition(" clipline run ")[0]))
            assert used <= known[program], (path, used)
            asked[program] += bool(used)
    assert asked["ray start"] >= 8
    assert asked["mlflow server"] == 2


def test_the_page_names_files_that_are_there():
    """Scripts that can be started, folders that kubectl can build, and options that scripts hand on."""
    text = PAGE.read_text()
    named = {Path(found.rstrip(".")) for found in re.findall(r"infra/deploy/[\w./-]+", text)}
    assert len(named) >= 10
    assert all((REPO / path).exists() for path in named)
    assert all((REPO / path).stat().st_mode & 0o111 for path in named if path.suffix == ".sh")
    assert set(re.findall(r"apply -k infra/deploy/kubernetes/overlays/(\w+)", text)) <= set(OVERLAYS)
    assert set(re.findall(r"overlays/(\w+)", text)) == set(OVERLAYS)
    (kept,) = documents((DEPLOY / "kubernetes/overlays/team/cluster.yaml").read_text())
    assert f"service/{kept['metadata']['name']}-head-svc {PORTS['dashboard']}:{PORTS['dashboard']}" in text


# --- secrets

SECRET = re.compile(r"(?i)(password|secret|token|credential|access_key)")
REFERENCE = re.compile(r"^(/run/secrets/|/etc/clipline/|s3_|token$|\$\(|~/)|_(FILE|PATH)$")


@pytest.mark.parametrize("path", YAML, ids=name)
def test_no_secret_is_in_a_file(path):
    for mapping in mappings(documents(path.read_text())):
        pairs = [(mapping["name"], mapping["value"])] if {"name", "value"} <= mapping.keys() else mapping.items()
        for key, value in pairs:
            if isinstance(value, str) and SECRET.search(str(key)) and key.isupper():
                assert REFERENCE.search(value), f"{path}: {key}"
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s@{$]+:[^/\s@{$]+@", path.read_text())


# --- compose


@pytest.fixture(scope="module")
def compose():
    return documents((DEPLOY / "compose/compose.yaml").read_text())[0]


def test_compose_names_what_there_is(compose):
    services = compose["services"]
    for title, service in services.items():
        assert set(service.get("secrets", ())) <= set(compose["secrets"]), title
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"], title
        for other, how in service.get("depends_on", {}).items():
            ends = how["condition"] == "service_completed_successfully"
            assert ends or "test" in services[other]["healthcheck"], (title, other)
    used = {secret for service in services.values() for secret in service.get("secrets", ())}
    assert used == set(compose["secrets"])


def test_compose_is_open_to_this_machine_alone(compose):
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert not service.get("privileged")
        assert service.get("network_mode") is None


def test_compose_starts_ray_with_a_token_and_its_shared_memory(compose):
    for title in ("head", "worker"):
        environment = compose["services"][title]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert "ray_token" in compose["services"][title]["secrets"]
        shared = int(compose["services"][title]["shm_size"].removesuffix("gb"))
        assert shared * 2**30 >= wanted_bytes(2**50)  # of any machine
    files = {one["file"] for one in compose["secrets"].values()}
    assert files == {f"./secrets/{secret}" for secret in compose["secrets"]}


def test_secrets_are_drawn_once_and_read_by_their_owner_alone(tmp_path, compose):
    for script in ("up.sh", "demo.sh"):
        (tmp_path / script).write_text((DEPLOY / "compose" / script).read_text())

    def draw() -> dict[str, str]:
        subprocess.run(["bash", tmp_path / "up.sh", "--secrets-only"], check=True, timeout=20)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first = draw()
    assert set(first) == set(compose["secrets"])
    assert draw() == first
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert len({first[key] for key in ("postgres_password", "ray_token", "s3_password")}) == 3
    assert all(len(first[key]) == 48 for key in ("postgres_password", "ray_token", "s3_password"))
    assert f"aws_secret_access_key = {first['s3_password']}\n" in first["aws_credentials"]


def test_git_and_the_image_builder_leave_the_secrets_out():
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "infra/deploy/compose/secrets/ray_token"], cwd=REPO, check=False
    )
    assert ignored.returncode in (0, 128)  # 128: this is no checkout
    assert "infra/deploy" in (REPO / ".dockerignore").read_text().splitlines()


def test_skypilot_leaves_secrets_to_the_command_line():
    task = yaml.safe_load((DEPLOY / "skypilot/clipline.yaml").read_text())
    assert set(task) <= {"name", "num_nodes", "resources", "envs", "secrets", "run", "setup", "file_mounts", "workdir"}
    assert set(task["secrets"].values()) == {None}
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)
