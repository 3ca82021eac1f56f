"""The three roles under what deploy/*/compose.yaml asks of a container engine: they work, and write to their volumes alone.

Read-only root, user 10001, no capability, no new privileges, a filter as engines have one; from the wheels, in a network
of their own (`grail devnet`). No engine was at hand: see `tooling.testing.contained` for what is not as in a container.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tooling.testing.contained import USER, Contained, refusal
from tooling.testing.serving_node import save_served_model
from tooling.testing.wheels import build

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(refusal() is not None, reason=str(refusal()))]

DEADLINE_S = 240.0
ELSEWHERE = ("GRAIL_STATE_DIR", "GRAIL_CACHE_DIR", "GRAIL_LOG_FILE")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five wheels, unpacked as an installation has them."""
    place = tmp_path_factory.mktemp("wheels")
    build(place)
    for wheel in place.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place / "code")
    for folder in (place, *place.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    return place / "code"


def program(name: str, *arguments: str) -> list[str]:
    """What the script of that name in an image runs."""
    module = name.replace("-", "_")
    return ["python", "-c", f"import sys; sys.argv[0] = {name!r}; from {module}.cli import main; sys.exit(main())", *arguments]


def test_the_sandbox_is_whole_as_an_unprivileged_user_and_lacks_namespaces_behind_a_filter(code: Path, tmp_path: Path) -> None:
    contained = Contained(tmp_path, code)
    layers = {}
    for filtered in (False, True):
        done = contained.run(program("grail-envs", "doctor", "--json"), filtered=filtered)
        layers[filtered] = json.loads(done.stdout)["layers"]
        assert done.returncode == (7 if filtered else 0), done.stderr
    assert layers[False]["namespaces"] is True
    assert layers[True]["namespaces"] is False
    for kept in ("own_user", "landlock", "seccomp"):
        assert layers[False][kept] == layers[True][kept] is True


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "net"
    devnet("init", str(folder), "--block-time", "0.5")
    devnet("up", "--detach", "--dir", str(folder))
    save_served_model(folder / "model")
    yield folder
    devnet("down", "--dir", str(folder))


def devnet(*arguments: str) -> str:
    main = "import sys; from grail_core.commands.grail import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "devnet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def settings(network: Path, name: str, place: Path) -> Path:
    """A participant's settings as the secret that is mounted at /work/.env."""
    lines = devnet("env", name, "--dir", str(network), "--format", "dotenv").splitlines()
    path = place / f"{name}.env"
    path.write_text("\n".join(line for line in lines if not line.startswith(ELSEWHERE)))
    path.chmod(0o400)
    os.chown(path, USER, USER)
    return path


def test_a_window_is_mined_judged_and_paid_by_contained_roles_that_write_to_their_volumes_alone(
    code: Path, network: Path, tmp_path: Path
) -> None:
    first = ("--model", str(network / "model"), "--env", "sat")
    roles = {"grail-trainer": ("trainer", first), "grail-miner": ("miner-1", ()), "grail-validator": ("validator-1", ())}
    running: dict[str, tuple[Contained, subprocess.Popen[str]]] = {}
    secrets = {name: settings(network, name, tmp_path) for name, _ in roles.values()}
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(network)], check=True)
    try:
        for role, (name, more) in roles.items():
            contained = Contained(tmp_path / role, code, secrets[name], (network,))
            process = contained.popen(program(role, "run", "--json-logs", *more), filtered=True)
            running[role] = contained, process
        validator = running["grail-validator"][1]
        accepted = next_event(validator, "miner_judged", status="accepted")
        paid = next_event(validator, "weights_sent")
        # As in compose.yaml: the validator's volume, no wallet, no secret.
        judge = running["grail-validator"][0]
        told = {"GRAIL_NETWORK": str(network / "network.json")}
        beside = Contained(tmp_path / "page", code, None, (network,), told, state_of=judge)
        running["page"] = beside, beside.popen(program("grail-validator", "serve", "--port", "0", "--json"), filtered=True)
        assert accepted["hotkey"][:6] in page_of(running["page"][1])
    finally:
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)
        ended = {role: process.communicate(timeout=90) for role, (_, process) in running.items()}
    assert paid["window"] == accepted["window"]
    for role, (contained, process) in running.items():
        assert process.returncode == 0, ended[role][1][-3000:]
        assert "Read-only file system" not in ended[role][1]
        assert any(path.is_file() for path in contained.state.rglob("*")), role
    (ledger,) = running["grail-validator"][0].state.rglob("ledger.sqlite")
    assert ledger.stat().st_uid == USER


def page_of(process: subprocess.Popen[str]) -> str:
    """The first page of the validator's scoreboard."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    address = json.loads(line)
    url = next(value for value in address.values() if isinstance(value, str) and value.startswith("http"))
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def next_event(process: subprocess.Popen[str], name: str, **fields: str) -> dict[str, Any]:
    """The next event of that name, and with these fields, that a role logs."""
    assert process.stderr is not None
    end, last = time.monotonic() + DEADLINE_S, ""
    for line in process.stderr:
        last = line
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == name and fields.items() <= event.items():
            return dict(event)
        if time.monotonic() > end:
            break
    raise AssertionError(f"no {name} with {fields}, last: {last}")
