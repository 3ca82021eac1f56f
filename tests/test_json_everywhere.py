"""Every command of the five programs has --json, or is one that runs on and logs events."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from grail_core.commands.grail import cli as grail
from grail_envs.cli import main as envs
from grail_miner.cli import cli as miner
from grail_trainer.cli import cli as trainer
from grail_validator.cli import cli as validator

PROGRAMS = {"grail": grail, "grail-envs": envs, "grail-miner": miner, "grail-validator": validator, "grail-trainer": trainer}
RUN_ON = {"grail-miner run", "grail-miner serve", "grail-validator run"}
"""They end when they are stopped; what they do are events, as JSON with --json-logs."""
ALIASES = {"grail mine", "grail validate", "grail train"}
"""They hand their options on to a role's `run`."""


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{path} {name}")
    else:
        yield path, command


def options(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def test_every_command_answers_in_json_or_logs_in_json() -> None:
    found = {path: command for program, top in PROGRAMS.items() for path, command in commands(top, program)}
    assert found.keys() >= RUN_ON | ALIASES
    without = {path for path, command in found.items() if "--json" not in options(command)}
    assert without == RUN_ON | ALIASES
    assert all("--json-logs" in options(found[path]) for path in RUN_ON)


@pytest.mark.parametrize(
    ("module", "arguments", "kind", "code"),
    [
        ("grail_core.commands.grail", ("checkpoint", "export", "latest", "--json"), "MissingParameter", 2),
        ("grail_trainer.cli", ("upgrade", "withdraw", "--json"), "SeveralMissingError", 3),
    ],
)
def test_an_error_is_one_json_object_on_standard_error(
    module: str, arguments: tuple[str, ...], kind: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAIL_NETWORK", "/nowhere/network.json")
    program = f"import sys; from {module} import main; sys.argv[0] = 'program'; main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stderr
    told = json.loads(done.stderr)
    assert told["error"] == kind
    assert told["what"]
    assert done.stdout == ""
