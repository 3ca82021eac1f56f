"""The compose files and the Containerfile: they parse, use what the compose specification has, and no service is let loose.

No container engine was at hand: that they start is not shown here. What a role writes under the same restrictions is, in
`test_contained_roles.py`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import compose_spec
import jsonschema
import pytest
import yaml
from compose_spec.models import ComposeSpecification
from packaging.tags import sys_tags
from pydantic import TypeAdapter

from grail_core.participant.settings import Settings
from grail_miner.cli import cli as miner
from grail_trainer.cli import cli as trainer
from grail_validator.cli import cli as validator
from tooling import REPOSITORY
from tooling.release.packages import read_packages

DEPLOY = REPOSITORY / "deploy"
FILES = sorted([*DEPLOY.glob("*/compose*.yaml"), DEPLOY / "monitoring.yaml"])
PROGRAMS: dict[str, click.Command] = {"grail-miner": miner, "grail-validator": validator, "grail-trainer": trainer}
OPERATORS_OWN = {"wallets", "network.json", "settings.env", "grafana-password"}
"""What an operator puts beside a compose file; docs/deployment.md says of each how."""
VERSIONS = {name: package.version for name, package in read_packages(REPOSITORY).items()}
PORTS = {"miner": 9461, "validator": 9462, "trainer": 9463, "page": 9464}


def read(path: Path) -> dict[str, Any]:
    text = re.sub(r"\$\{\w+:-([\w.]+)\}", r"\1", path.read_text("utf-8"))  # as an engine fills in what nobody set
    value = yaml.safe_load(text)
    assert isinstance(value, dict)
    return value


def services(files: list[Path] = FILES) -> Iterator[tuple[str, dict[str, Any], Path]]:
    for path in files:
        for name, service in read(path)["services"].items():
            yield name, service, path


WHOLE = [one for one in services() if "image" in one[1]]
NAMES = [f"{path.parent.name}-{name}" for name, _, path in WHOLE]


def closed(schema: Any) -> Any:
    """The schema with every object closed: its own keys and extensions (`x-…`) alone."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        result |= {"patternProperties": {"^x-": {}}, "additionalProperties": False}
    return result


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The specification's schema, as the package carries it (models made of it)."""
    found: dict[str, Any] = closed(TypeAdapter(ComposeSpecification).json_schema())
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_compose_file_has_keys_of_the_specification_alone(path: Path, schema: dict[str, Any]) -> None:
    jsonschema.validate(read(path), schema)
    assert compose_spec.PyCompose.from_yaml(json.dumps(read(path))).service_names()  # JSON is YAML; merges are done


@pytest.mark.parametrize("wrong", [{"no_such_key": 1}, {"cap_drop": "ALL"}, {"healthcheck": {"tests": ["CMD", "true"]}}])
def test_the_check_refuses_a_key_or_value_that_the_specification_does_not_have(
    wrong: dict[str, Any], schema: dict[str, Any]
) -> None:
    value = read(DEPLOY / "miner" / "compose.yaml")
    value["services"]["miner"] |= wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema)


@pytest.mark.parametrize(("name", "service", "path"), WHOLE, ids=NAMES)
def test_no_service_is_let_loose(name: str, service: dict[str, Any], path: Path) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user, group = service["user"].split(":")
    assert user != "0"
    assert group.isdigit()
    for key in (
        "privileged",
        "cap_add",
        "devices",
        "network_mode",
        "pid",
        "ipc",
        "userns_mode",
        "use_api_socket",
        "volumes_from",
    ):
        assert key not in service, key
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"] > 0
    assert service["logging"]["options"].keys() >= {"max-size", "max-file"}
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "on-failure"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize(("name", "service", "path"), WHOLE, ids=NAMES)
def test_images_are_pinned_and_ours_are_of_this_version(name: str, service: dict[str, Any], path: Path) -> None:
    image, _, tag = service["image"].rpartition(":")
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), service["image"]
    if image in VERSIONS:
        assert tag == VERSIONS[image]
        assert service["pull_policy"] == "never"  # nobody else's image of this name


@pytest.mark.parametrize(("name", "service", "path"), WHOLE, ids=NAMES)
def test_what_is_mounted_is_there_or_the_operators_and_of_it_only_volumes_are_written(
    name: str, service: dict[str, Any], path: Path
) -> None:
    declared = read(path)
    for volume in service.get("volumes", ()):
        if volume["type"] == "volume":
            assert volume["source"] in declared["volumes"]
            continue
        assert volume["type"] == "bind"
        assert volume["read_only"] is True
        assert volume["bind"]["create_host_path"] is False
        assert "sock" not in volume["source"]
        if Path(volume["source"]).name not in OPERATORS_OWN:
            assert (path.parent / volume["source"]).exists(), volume["source"]
    if name == "page":
        assert "secrets" not in service
        assert "wallets" not in str(service)
    for secret in service.get("secrets", ()):
        source = secret if isinstance(secret, str) else secret["source"]
        assert Path(declared["secrets"][source]["file"]).name in OPERATORS_OWN


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*/compose.yaml")), ids=lambda path: path.parent.name)
def test_includes_overrides_and_examples_belong_to_their_role(path: Path) -> None:
    value = read(path)
    for name in ("compose.gpu.yaml", "compose.sandbox.yaml"):
        assert read(path.parent / name)["services"].keys() <= value["services"].keys()
    options = read(path.parent / "compose.sandbox.yaml")["services"][path.parent.name]["security_opt"]
    assert {option.split(":")[0] for option in options} == {"seccomp", "apparmor"}
    assert "seccomp:unconfined" not in options
    page = (REPOSITORY / "docs/deployment.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in OPERATORS_OWN)


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*/compose.yaml")), ids=lambda path: path.parent.name)
def test_what_prometheus_asks_is_the_services_of_the_file_and_their_ports(path: Path) -> None:
    value = read(path)
    (included,) = value["include"]
    assert (path.parent / included["path"]).resolve() == DEPLOY / "monitoring.yaml"
    watched = dict(line.split("=") for line in (path.parent / included["env_file"]).read_text().splitlines() if "=" in line)
    assert watched.keys() == {"WATCHED", "WATCHED_BESIDE"}
    assert set(watched.values()) == value["services"].keys()
    for name in watched.values():
        targets = DEPLOY / "prometheus/targets" / f"{name}.yaml"
        assert yaml.safe_load(targets.read_text())[0]["targets"] == [f"{name}:{PORTS[name]}"]


@pytest.mark.parametrize(("name", "service", "path"), [one for one in WHOLE if one[0] in PORTS], ids=lambda one: str(one)[:12])
def test_a_command_is_one_that_the_role_takes(name: str, service: dict[str, Any], path: Path) -> None:
    program, *arguments = service["command"]
    command, context = PROGRAMS[program], None
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), arguments[0])
        assert found is not None, arguments
        command, arguments = found, arguments[1:]
    context = command.make_context(program, list(arguments))
    assert not context.args
    port = str(PORTS[name])
    assert port in service["healthcheck"]["test"][-1]
    assert any(port in exposed for exposed in (*service.get("expose", ()), *service.get("ports", ())))


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*/compose*.yaml")), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_names_in_the_environment_are_settings_of_ours(path: Path) -> None:
    known = {field.alias for field in Settings.model_fields.values()}
    named = {name for _, service, _ in services([path]) for name in service.get("environment", ())}
    assert named <= known
    example = (path.parent / "settings.env.example").read_text("utf-8")
    assert {line.split("=")[0] for line in example.splitlines() if "=" in line and not line.startswith("#")} <= known


def test_the_images_environment_is_of_settings_and_of_folders_that_can_be_written() -> None:
    text = (DEPLOY / "Containerfile").read_text("utf-8")
    known = {field.alias for field in Settings.model_fields.values()}
    assert set(re.findall(r"(?:GRAIL|BT)_\w+", text)) <= known
    assert re.search(r"^ARG BASE=\S+:\d+\.\d+\.\d+-slim-bookworm$", text, re.MULTILINE)
    assert text.index("USER 10001:10001") > text.index("install -d -o 10001 -g 10001 -m 700 /state /cache")
    assert "docker.sock" not in text
    context = [line.split()[1] for line in text.splitlines() if line.startswith(("COPY ", "ADD ")) and "--from" not in line]
    assert context == ["."]  # of `dist` alone, as its first lines say
    assert f"-t grail-miner:{VERSIONS['grail-miner']} dist" in text


def tiny_wheel(folder: Path, name: str, tag: str, whose: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    module, version = name.replace("-", "_"), VERSIONS[name]
    info = f"{module}-{version}.dist-info"
    needs = "" if name == "grail-core" else f"Requires-Dist: grail-core[model]~={VERSIONS['grail-core']}\n"
    files = {
        f"{module}/__init__.py": f"WHOSE = {whose!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: model\n{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    with zipfile.ZipFile(folder / f"{module}-{version}-{tag}.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))


def test_an_image_has_our_wheels_though_an_index_has_others_of_these_names(tmp_path: Path) -> None:
    """As its lines say it, with pip itself and an index whose wheels are tagged for this very platform, which pip prefers."""
    names, dist, index = ("grail-core", "grail-envs", "grail-miner"), tmp_path / "dist", tmp_path / "index"
    platform = next(iter(sys_tags()))
    for name in names:
        tiny_wheel(dist, name, "py3-none-any", "ours")
        tiny_wheel(index / name, name, str(platform), "a stranger's")
        links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in (index / name).iterdir())
        (index / name / "index.html").write_text(links)
    (dist / "constraints.txt").write_text("".join(f"{name}=={VERSIONS[name]}\n" for name in names))
    venv.create(tmp_path / "grail", with_pip=False)
    text = (DEPLOY / "Containerfile").read_text("utf-8").replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if "--find-links" in line]
    steps = [step for step in line.removeprefix("RUN ").split("&&") if "pip install" in step and "torch" not in step.split()]
    pip = f"{sys.executable} -m pip --python {tmp_path}/grail/bin/python"
    environment = {
        "PATH": os.environ["PATH"],
        "ROLE": "grail-miner",
        "PIP_INDEX_URL": index.as_uri(),
        "PIP_CONFIG_FILE": os.devnull,
    }
    for step in steps:
        command = step.replace("/opt/grail/bin/pip", pip).replace("/dist", str(dist))
        done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
    asked = "import grail_core, grail_miner; print({grail_core.WHOSE, grail_miner.WHOSE})"
    done = subprocess.run([tmp_path / "grail/bin/python", "-I", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'ours'}"


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"x")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(("name", "service", "path"), [one for one in WHOLE if one[0] in PORTS], ids=lambda one: str(one)[:12])
def test_a_health_check_tells_an_answer_from_a_fault_and_from_nobody(name: str, service: dict[str, Any], path: Path) -> None:
    _, _, option, program = service["healthcheck"]["test"]

    class Handler(Answering):
        """One of this test's own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = program.replace(str(PORTS[name]), str(server.server_port))

    def code() -> int:
        return subprocess.run([sys.executable, option, program], capture_output=True, check=False, timeout=60).returncode

    assert code() == 0
    Handler.status = 503
    assert code() == 1
    server.shutdown()
    server.server_close()
    assert code() == 1


def test_a_seccomp_profile_keeps_its_rules_and_gets_one(tmp_path: Path) -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
    (tmp_path / "default.json").write_text(json.dumps(profile))
    command = [sys.executable, str(DEPLOY / "allow_sandbox.py"), str(tmp_path / "default.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["syscalls"][:-1] == profile["syscalls"]
    assert told["syscalls"][-1]["names"] == ["clone", "mount", "sethostname"]
    for text in ("{}", "[]", "no json", json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []})):
        (tmp_path / "default.json").write_text(text)
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert not refused.stdout
