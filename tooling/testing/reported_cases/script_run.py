"""`python -m tooling.testing.reported_cases.script_run FILE`: a script, statement by statement, as JSON on standard output.

A statement that raises ends nothing: a case that is refused is right as often as not, and the next one still counts. Names that
have moved since a script was written are found where they are now.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grail_core.errors import GrailError

MOVED = {
    "grail_core.prompts": "grail_core.model.prompts",
    "grail_core.window_file": "grail_core.files.window_file",
    "grail_core.window_file.SCHEMA": "tooling.testing.window_files.SCHEMA",
    # What a trainer reads of a validator: accepted files came in a file of their own once, and are window files now.
    "grail_core.verified_files.read_accepted_files": "grail_core.files.window_file.read_window_file",
    "grail_core.proof.model": "grail_core.model.policy_model",
    "grail_core.proof.sampling": "grail_core.model.sampling",
    "grail_core.generation.base.GenerationPolicy": "grail_core.protocol.policy.GenerationPolicy",
    "grail_trainer.logprobs.TokenRow": "grail_trainer.learning.rollouts.TokenSequence",
}
"""Modules, and names in modules, whose place or name was another one when scripts were written."""

ARGUMENT_GONE = {"grail_trainer.learning.update.policy_loss": (4, 1)}
"""Functions → how many positional arguments they had, and the place of the one that they no longer take (the entropy)."""

RENAMED_ARGUMENTS = {"grail_core.protocol.WindowHeader": {"numerics_class": ("proof_class", "generation_class")}}
"""Functions → arguments by their former name, and the names of those that now take their value."""

REFUSED: list[str] = []
"""What the readers that a script called have refused, though the script may have caught it."""


@dataclass(frozen=True)
class Statement:
    """What one statement printed and raised. `texts`: its string constants; `refusal`: it raised as this project refuses."""

    texts: list[str]
    printed: str
    error: str = ""
    refusal: bool = False


def main() -> None:
    """Run the file of the command line."""
    path = Path(sys.argv[1])
    sys.argv = [str(path)]
    out, space = sys.stdout, {"__name__": "__main__", "__file__": str(path)}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    done = [asdict(_ran(node, path, space)) for node in tree.body]
    json.dump({"about": ast.get_docstring(tree) or "", "statements": done, "refused": REFUSED}, out)


def _ran(node: ast.stmt, path: Path, space: dict[str, Any]) -> Statement:
    texts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module != "__future__":
                for alias in node.names:
                    space[alias.asname or alias.name] = _imported(node.module, alias.name)
            else:
                exec(compile(ast.Module([node], []), str(path), "exec"), space)
    except Exception as error:  # noqa: BLE001 - whatever a case raises is what became of it
        first = str(error).partition("\n")[0]
        return Statement(
            texts, printed.getvalue(), f"{type(error).__name__}: {first}", isinstance(error, GrailError | ValueError)
        )
    return Statement(texts, printed.getvalue())


def _imported(module: str, name: str) -> Any:
    moved = MOVED.get(f"{module}.{name}")
    if moved is not None:
        module, _, name = moved.rpartition(".")
    found = importlib.import_module(MOVED.get(module, module))
    if not hasattr(found, name):
        return importlib.import_module(f"{found.__name__}.{name}")
    value = getattr(found, name)
    if (gone := ARGUMENT_GONE.get(f"{module}.{name}")) is not None:
        return _without_argument(value, *gone)
    if (renamed := RENAMED_ARGUMENTS.get(f"{module}.{name}")) is not None:
        return _with_new_names(value, renamed)
    return _noting_refusals(value) if name.startswith("read_") else value


def _without_argument(function: Callable[..., Any], count: int, place: int) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        kept = arguments if len(arguments) != count else (*arguments[:place], *arguments[place + 1 :])
        return function(*kept, **named)

    return called


def _with_new_names(function: Callable[..., Any], renamed: Mapping[str, tuple[str, ...]]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        for name, places in renamed.items():
            if name in named:
                value = named.pop(name)
                named.update(dict.fromkeys(places, value))
        return function(*arguments, **named)

    return called


def _noting_refusals(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except GrailError as error:
            REFUSED.append(str(error).partition("\n")[0])
            raise

    return called


if __name__ == "__main__":
    main()
