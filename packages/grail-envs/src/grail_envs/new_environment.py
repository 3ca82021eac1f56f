"""`grail-envs new`: an environment of one's own, from the template that comes with this wheel.

What is written is a whole wheel (class, entry point, pyproject) that passes `grail-envs check` as it is, under the name that
was given; its problems are sums until somebody changes them. Nothing that exists is written over.
"""

from __future__ import annotations

import keyword
import re
import shlex
import sys
from pathlib import Path

import click

from grail_core.disk import storage_errors
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_core.telemetry.json_output import json_option, say
from grail_envs.registry import known_ids

FILES = ("pyproject.toml", "README.md")  # and the module
_MODEL = "sums"  # the template's own name
_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")


@click.command("new")
@click.argument("name", metavar="NAME")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to make (default: NAME, here).")
@json_option
def new(name: str, out: Path | None, as_json: bool) -> None:
    """Write an environment called NAME, a wheel of its own: problems, grades and what `grail-trainer init` needs.

    \b
      grail-envs new anagrams
      pip install -e ./anagrams
      grail-envs check anagrams
    """
    folder = out if out is not None else Path(name)
    written = write_environment(name, folder)
    steps = f"pip install -e {shlex.quote(str(folder if folder.is_absolute() else Path('.') / folder))}"
    say(
        f"{folder}: {', '.join(written)}; next: `{steps}`, then `grail-envs check {name}`; {name}.py is what to change",
        {"name": name, "folder": str(folder), "files": list(written)},
        as_json=as_json,
    )


def write_environment(name: str, folder: Path) -> tuple[str, ...]:
    """The files that were written into `folder`, which must be empty or absent.

    Raises:
        ConfigurationError: the name cannot be one of a module and an environment, or is taken; the folder is not empty.
        StorageError: it cannot be written.
    """
    _require_name(name)
    with storage_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigurationError("something is there already", where=str(folder), hint="name an empty folder with --out")
        source = template_folder()
        texts = {file: (source / file).read_text("utf-8") for file in FILES}
        texts[f"{name}.py"] = (source / f"{_MODEL}.py").read_text("utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(_renamed(text, name), "utf-8")
    return tuple(texts)


def template_folder() -> Path:
    """In an installed wheel beside this module, in the project's source beside `src`.

    Raises:
        EnvironmentUnavailableError: in neither place.
    """
    here = Path(__file__).parent
    for place in (here / "template", here.parents[1] / "template"):
        if (place / f"{_MODEL}.py").is_file():
            return place
    raise EnvironmentUnavailableError(
        "the template of an environment is not here", where=str(here), hint="install grail-envs from a wheel of this project"
    )


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a module and an environment",
            where="NAME",
            hint="2 to 40 letters a to z, digits and _, the first a letter, and no word of Python",
        )
    if name in sys.stdlib_module_names or name.startswith("grail_"):
        raise ConfigurationError(f"a module {name} is there already", where="NAME", hint="choose another name")
    if name in known_ids():
        raise ConfigurationError(
            f"an environment {name} is installed already", where="NAME", hint="choose another name; `grail-envs list` has all"
        )


def _renamed(text: str, name: str) -> str:
    titled = "".join(part.capitalize() for part in name.split("_"))
    text = text.replace(f"grail-env-{_MODEL}", f"grail-env-{name.replace('_', '-').strip('-')}")
    text = text.replace(f"{_MODEL.capitalize()}Environment", f"{titled}Environment")
    return re.sub(rf"\b{_MODEL}\b", name, text)
