"""`python -m tooling.docs.command_pages [--check]`: every command's `--help`, as pages of the reference.

One page a program, in docs/reference/commands/. The texts are the programs' own: change them there. What all commands share
stands once, in the reference's own page, and so it is left out of each.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from tooling import REPOSITORY
from tooling.testing.made_files import Maker

COMMAND: Final = "hatch run settings"
FOLDER: Final = Path("docs/reference/commands")
WIDTH: Final = 124  # columns of a help text
OF_THEIR_OWN: Final = ("grail devnet", "grail-trainer run")
"""Commands whose texts are long enough for a page beside their program's."""
SHARED: Final = ("--verbose", "--log-file", "--log-format", "--json-logs", "--show-settings", "--help")
"""Options that docs/reference/README.md explains once."""

_HEAD: Final = """\
# {program}

<!-- made by `{command}` -->

What `{program}` and each of its commands say with `--help`, as of this version; options that all of them share are
[explained once](../README.md#options-that-commands-share). {read}
"""
READ: Final = {
    "grail devnet": "What it is for: [a network on this machine](../../operations.md#a-network-on-this-machine).",
    "grail-trainer run": "What they are for: [the update](../../trainer.md#the-update).",
    "grail": "What they are for: [operations](../../operations.md), [inference](../../inference.md) and others.",
    "grail-envs": "What they are for: [environments](../../environments.md#commands).",
    "grail-miner": "What they are for: [running a miner](../../miner.md), [conformance](../../conformance.md).",
    "grail-trainer": "What they are for: [running a trainer](../../trainer.md).",
    "grail-validator": "What they are for: [a validator's day](../../validator.md).",
}


def programs() -> dict[str, click.Command]:
    """Every program that a wheel installs. Imported here: whoever builds the site has none of them."""
    from grail_core.commands.grail import cli as grail
    from grail_envs.cli import main as environments
    from grail_miner.cli import cli as miner
    from grail_trainer.cli import cli as trainer
    from grail_validator.cli import cli as validator

    return {
        "grail": grail,
        "grail-envs": environments,
        "grail-miner": miner,
        "grail-trainer": trainer,
        "grail-validator": validator,
    }


def pages() -> dict[str, str]:
    """File name → text, one page for each program and for each of `OF_THEIR_OWN`."""
    parts: dict[str, list[str]] = {}
    for program, command in programs().items():
        for path, text in helped(program, command):
            owner = next((one for one in OF_THEIR_OWN if path == one or path.startswith(f"{one} ")), program)
            head = [_HEAD.format(program=owner, command=COMMAND, read=READ[owner])]
            parts.setdefault(owner, head).append(f"## {path}\n\n```text\n{text}\n```\n")
    return {f"{owner.replace(' ', '-')}.md": "\n".join(texts) for owner, texts in parts.items()}


def helped(path: str, command: click.Command, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Every command's path and help text, those of its subcommands behind it; aliases of other programs' commands left out."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent=parent, info_name=path.split()[-1], **settings)
    yield path, _without_shared(command.get_help(context))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden and not _alias(below):
                yield from helped(f"{path} {name}", below, context)


def _alias(command: click.Command) -> bool:
    """Of another program's command, which has the same help."""
    return (command.short_help or "").startswith("The same as ") or (command.help or "").startswith("The same as ")


def _without_shared(text: str) -> str:
    """A help text without the rows of `SHARED`, which may be folded."""
    kept, left_out = list[str](), False
    for line in text.rstrip().split("\n"):
        if re.match(r"^  (?:-\w, )?--", line):
            left_out = any(re.match(rf"^  (?:-\w, )?{name}\b", line) for name in SHARED)
        elif not line.startswith("     "):
            left_out = False
        if not left_out:
            kept.append(line.rstrip())
    return "\n".join(kept).removesuffix("\nOptions:").rstrip()


def files(root: Path) -> Iterator[tuple[Path, str]]:
    """What is made, and what its text should be."""
    for name, text in pages().items():
        yield FOLDER / name, text


def main(arguments: list[str] | None = None, root: Path = REPOSITORY) -> int:
    maker = Maker("tooling.docs.command_pages", __doc__ or "", files, "what the commands say", COMMAND)
    return maker.main(arguments, root)


if __name__ == "__main__":
    sys.exit(main())
