"""Where settings come from: the environment, `.env` in the working folder, and a TOML file; whichever comes first counts.

In the environment and in `.env` other programs' variables live too: a name that is none of ours is told of where it begins with
GRAIL_ or nearly is one of ours, and passes otherwise. The TOML file is ours alone: every key in it is a setting, or an error.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grail_core.errors import ConfigurationError
from grail_core.participant.dotenv import Assignment, Fault
from grail_core.participant.settings_files import TomlFile, faults_error, read_dotenv, read_toml

DOTENV = Path(".env")
DEFAULT_TOML = Path("grail.toml")
ENVIRONMENT = "environment"

ENVIRONMENT_ALONE = {
    "GRAIL_CONFIG": ("`grail.toml`", "every command", "the TOML file"),
    "GRAIL_ENVIRONMENT_PACKAGES": (
        "none",
        "environments",
        "distributions, comma separated, whose code may run here when a network asks for an environment made by them "
        "(see adapters.md)",
    ),
    "GRAIL_GPU_EVAL": ("", "`grail-envs time`", "`1`: kernels of answers may run on this machine's GPUs (see kernels.md)"),
    "GRAIL_NODE_TOKEN": ("", "`grail ask`", "the client's token that it shows to a node (see inference.md)"),
    "GRAIL_SANDBOX": ("`strict`", "environments", "how answers that are code are run (see environments.md)"),
    "KERNEL_EVAL_BACKEND": (
        "`interpreter`",
        "`grail-envs time`",
        "how kernels are timed: `persistent`, `subprocess`; no grade",
    ),
    "KERNEL_EVAL_GPU_IDS": ("`0`", "`grail-envs time`", "the GPUs that kernels are timed on, `0,1`"),
    "KERNEL_EVAL_TIMEOUT": ("`60`", "`grail-envs time`", "seconds for one timed kernel"),
}
"""Variables that no file can set: name → default, who reads it, meaning."""

SUCCESSORS = {
    "GRAIL_GENERATION_BATCH_SIZE": "set GRAIL_PIPELINE_GROUPS_PER_BATCH, which counts groups of 16 rollouts",
    "GRAIL_USE_FLASH_ATTENTION": "nothing takes its place: proofs are made with SDPA, as validators check them",
    "GRAIL_USE_VLLM": "set GRAIL_PIPELINE_BACKEND to vllm, sglang or hf",
}
"""Names of older miners, and what to do instead. Their values mean something else, so none is taken over."""

OTHER_TOOLS = {
    "BT_WALLET_NAME": "BT_WALLET_COLD",
    "BT_WALLET_HOTKEY": "BT_WALLET_HOT",
    "BT_SUBTENSOR_NETWORK": "BT_NETWORK",
    "BT_SUBTENSOR_CHAIN_ENDPOINT": "BT_CHAIN_ENDPOINT",
    "BT_NETUID": "NETUID",
    "R2_BUCKET": "R2_BUCKET_ID",
    "R2_BUCKET_NAME": "R2_BUCKET_ID",
    "R2_ENDPOINT": "R2_ENDPOINT_URL",
    "AWS_ENDPOINT_URL": "R2_ENDPOINT_URL",
}
"""What other tools call what a setting of ours is: name → ours. Their values are not taken over; a doctor tells of them."""

MAX_NAME_LENGTH = 80
MAX_UNKNOWN_TOLD = 20
_NEAR = 0.8  # as difflib counts it: R2_ACCESS_KEY_ID and NETIUD are near
_PREFIXES = ("GRAIL", "BT")
_OTHERS = ("BT_PW_", "BT_WALLET_PASSWORD", "BT_ARCHIVE_", "BT_EVM_", "BT_FALLBACK_", "BT_SIGNER_", "BT_EXTENSION_", "AWS_")
"""What bittensor and boto3 read themselves; names that begin so are no misspelling of ours."""


@dataclass(frozen=True)
class Given:
    """A value that somebody set, and where. It is stripped, and holds no control character and no quotes around it."""

    value: Any = field(repr=False)  # it may be a secret
    origin: str


@dataclass(frozen=True)
class Unknown:
    """A name that no setting has."""

    name: str
    nearest: str | None
    origin: str

    def __str__(self) -> str:
        place = "" if self.origin == ENVIRONMENT else f"{self.origin}: "
        if self.name in SUCCESSORS:
            return f"{place}{self.name} is of older miners and is not read; {SUCCESSORS[self.name]}"
        return f"{place}no setting is called {_printable(self.name)}" + (
            f"; did you mean {self.nearest}?" if self.nearest else ""
        )


def read_sources(
    environ: Mapping[str, str], known: Collection[str], faults: list[ConfigurationError] | None = None
) -> tuple[dict[str, Given], list[Unknown]]:
    """What is set, by name, the first source counting; and the names to tell of.

    Args:
        faults: what is wrong with a source goes here, and the source is left out; None: it is raised.

    Raises:
        ConfigurationError: a file does not parse, or says what it cannot say; a value that no setting can have.
    """
    given: dict[str, Given] = {}
    unknown: list[Unknown] = []
    if faults is not None:
        return _read_what_can_be(environ, known, faults)
    dotenv, told = _from_dotenv(environ, known)
    toml = _from_toml(_toml_file(environ), known)
    for source in (_from_environment(environ, known), dotenv, toml):
        for name, value in source.items():
            given.setdefault(name, value)
    for name in sorted(environ):
        unknown += _unknown(name, known, ENVIRONMENT)
    return given, (unknown + told)[:MAX_UNKNOWN_TOLD]


def _read_what_can_be(
    environ: Mapping[str, str], known: Collection[str], faults: list[ConfigurationError]
) -> tuple[dict[str, Given], list[Unknown]]:
    """As `read_sources`, without the variables and files that cannot be read."""
    usable = dict(environ)
    for name in sorted(known):
        try:
            clean(name, environ.get(name, ""), ENVIRONMENT)
        except ConfigurationError as error:
            faults.append(error)
            del usable[name]
    given = _from_environment(usable, known)
    unknown = [one for name in sorted(environ) for one in _unknown(name, known, ENVIRONMENT)]
    values: dict[str, Given] = {}
    try:
        values, told = _from_dotenv(environ, known)
        unknown += told
    except ConfigurationError as error:
        faults.append(error)
    for name, value in values.items():
        given.setdefault(name, value)
    try:
        for name, value in _from_toml(_toml_file(environ), known).items():
            given.setdefault(name, value)
    except ConfigurationError as error:
        faults.append(error)
    return given, unknown[:MAX_UNKNOWN_TOLD]


def clean(name: str, value: str, origin: str) -> str:
    """The value without blanks around it.

    Raises:
        ConfigurationError: a character in it cannot be seen, or quotes are part of it. The value itself is not repeated.
    """
    stripped = value.strip()
    strange = next((char for char in stripped if not char.isprintable()), None)
    if strange is not None:
        what = (
            "a byte that is not UTF-8" if "\ud800" <= strange <= "\udfff" else f"a character that cannot be seen ({strange!a})"
        )
        raise ConfigurationError(f"{name}: there is {what} in its value", where=origin, hint="write the value again, in UTF-8")
    if stripped and (stripped[0] in _QUOTES or stripped[-1] in _QUOTES):
        raise ConfigurationError(
            f"{name}: a quote is part of its value", where=origin, hint=f"write {name}=value, without quotes within the value"
        )
    return stripped


_QUOTES = "'\"`“”‘’„‚«»‹›″′＂＇"


def _from_environment(environ: Mapping[str, str], known: Collection[str]) -> dict[str, Given]:
    values = {name: clean(name, environ[name], ENVIRONMENT) for name in known if name in environ}
    return {name: Given(value, ENVIRONMENT) for name, value in values.items() if value}


def _from_dotenv(environ: Mapping[str, str], known: Collection[str]) -> tuple[dict[str, Given], list[Unknown]]:
    found: dict[str, Assignment] = {}
    faults: list[Fault] = []
    unknown: list[Unknown] = []
    for entry in read_dotenv(DOTENV):
        if entry.name in ENVIRONMENT_ALONE:
            if not environ.get(entry.name):
                faults.append(Fault(entry.line, f"{entry.name} is read from the environment alone", f"export {entry.name}"))
        elif entry.name not in known:
            unknown += _unknown(entry.name, known, f"{DOTENV}, line {entry.line}")
        elif entry.name in found:
            faults.append(
                Fault(entry.line, f"{entry.name} stands in line {found[entry.name].line} already", "keep one of the lines")
            )
        elif entry.doubt:
            faults.append(
                Fault(
                    entry.line,
                    f"{entry.name}: {entry.doubt}",
                    f"one setting a line, # before a comment, or {entry.name}='…' around a value with it",
                )
            )
        elif entry.expands:
            faults.append(
                Fault(
                    entry.line, f"{entry.name}: $ and backquotes are not expanded here", "write the value out, or '…' around it"
                )
            )
        else:
            found[entry.name] = entry
    if faults:
        raise faults_error(DOTENV, faults)
    origins = {name: f"{DOTENV}, line {entry.line}" for name, entry in found.items()}
    values = {name: Given(clean(name, entry.value, origins[name]), origins[name]) for name, entry in found.items()}
    return {name: given for name, given in values.items() if given.value}, unknown


def _toml_file(environ: Mapping[str, str]) -> Path:
    named = clean("GRAIL_CONFIG", environ.get("GRAIL_CONFIG", ""), ENVIRONMENT)
    if not named:
        return DEFAULT_TOML
    path = Path(named).expanduser() if named.startswith("~/") else Path(named)
    if not os.path.lexists(path):
        raise ConfigurationError("there is no such settings file", where=named, hint="check GRAIL_CONFIG")
    return path


def _from_toml(path: Path, known: Collection[str]) -> dict[str, Given]:
    file = read_toml(path)
    given = {}
    for name, value in file.values.items():
        if name not in known:
            raise _not_in_toml(file, name, known)
        where = file.place(name)
        if not isinstance(value, str):
            given[name] = Given(value, where)
        elif text := clean(name, value, where):
            given[name] = Given(text, where)
    return given


def _not_in_toml(file: TomlFile, name: str, known: Collection[str]) -> ConfigurationError:
    where, value = file.place(name), file.values[name]
    if name in ENVIRONMENT_ALONE:
        return ConfigurationError(
            f"{name} is read from the environment alone", where=where, hint=f"export {name}, and take the line out"
        )
    if name in SUCCESSORS:
        return ConfigurationError(f"{name} is of older miners and is not read", where=where, hint=SUCCESSORS[name])
    near, name = nearest(name, known), _printable(name)
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value)):
        inside = _setting_in(value, known)
        return ConfigurationError(
            f"{name} is a table: settings stand at the top level",
            where=where,
            hint=f"take the table out, and write {inside or 'NAME'} = value before any line in brackets",
        )
    hint = f"did you mean {near}?" if near else "`grail storage doctor --show-settings` prints every name"
    return ConfigurationError(f"no setting is called {name}", where=where, hint=hint)


def _setting_in(table: Any, known: Collection[str]) -> str:
    """A setting that stands in a table, however deep; "" if there is none."""
    open_values = [table]
    while open_values:
        value = open_values.pop()
        if isinstance(value, dict):
            if found := next((key for key in value if key in known), ""):
                return found
            open_values += value.values()
        elif isinstance(value, list):
            open_values += value
    return ""


def nearest(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """The setting whose name is most like this one, whatever its letters' case, or the whole of it behind a prefix."""
    if name.upper() in OTHER_TOOLS:
        return OTHER_TOOLS[name.upper()]
    if len(name) > MAX_NAME_LENGTH:
        return None  # comparing takes the square of the length
    prefix, _, rest = name.upper().partition("_")
    if prefix in _PREFIXES and rest in known:
        return rest
    return next(iter(difflib.get_close_matches(name.upper(), sorted({*known, *ENVIRONMENT_ALONE}), 1, cutoff)), None)


def _printable(name: str) -> str:
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= MAX_NAME_LENGTH else text[:MAX_NAME_LENGTH] + "…"


def _unknown(name: str, known: Collection[str], origin: str) -> list[Unknown]:
    if name in known or name in ENVIRONMENT_ALONE or name.startswith(_OTHERS):
        return []
    if name in SUCCESSORS:
        return [Unknown(name, None, origin)]
    if name.lower().startswith("export") and name[len("export") :] in known:
        return [Unknown(name, name[len("export") :], origin)]  # the blank between them is missing
    ours = name.upper().startswith("GRAIL_")
    near = nearest(name, known, 0.6 if ours else _NEAR)
    return [Unknown(name, near, origin)] if ours or near else []
