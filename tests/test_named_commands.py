"""Who is told to run a command of ours can run it: every one that a message, a help text or a document names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from grail_core.commands.grail import cli as grail
from grail_envs.cli import main as environments
from grail_miner.cli import cli as miner
from grail_trainer.cli import cli as trainer
from grail_validator.cli import cli as validator
from tooling import REPOSITORY

ROOTS: dict[str, click.Command] = {
    "grail": grail,
    "grail-envs": environments,
    "grail-miner": miner,
    "grail-trainer": trainer,
    "grail-validator": validator,
}
NAMED = re.compile(r"`(grail(?:-[a-z]+)?)((?: [\w./…-]+)+)`")


def named() -> Iterator[tuple[str, str]]:
    files = [*REPOSITORY.glob("packages/*/src/**/*.py"), *REPOSITORY.glob("docs/**/*.md"), REPOSITORY / "README.md"]
    for path in files:
        for found in NAMED.finditer(path.read_text()):
            yield found[1], found[2]


@pytest.mark.parametrize(("program", "words"), sorted(set(named())))
def test_a_command_that_is_named_is_there(program: str, words: str) -> None:
    command = ROOTS[program]
    for word in words.split():
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"`{program}{words}`: no command {word}"
            command = found


def test_there_are_some() -> None:
    assert len(set(named())) > 15
