"""Which environments exist: the entry points `grail.environments` of our wheel, and of those that the operator named.

A third party adds an environment by publishing a wheel with such an entry point. It is imported into the process that asks,
which may hold keys, and a network chooses the id: so nothing of a wheel that is not ours is imported, and no claim of its
counts, unless the operator consented to its distribution (`grail_envs.adapters.consent`). An id that two such wheels claim, or
one of them and ours, is refused with both names. Nothing is imported until an environment is asked for.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError, GrailError
from grail_envs.adapters.consent import PACKAGES_VARIABLE, consented
from grail_envs.adapters.package import normal

if TYPE_CHECKING:
    from grail_core.environment import Environment

GROUP = "grail.environments"
OURS = "grail-envs"
"""The distribution whose environments need no consent: what asks is its own code."""

ADAPTERS = {
    "verifiers": "grail_envs.adapters.verifiers:VerifiersEnvironment",
    "gymnasium": "grail_envs.adapters.stepped:GymnasiumEnvironment",
    "openenv": "grail_envs.adapters.stepped:OpenEnvEnvironment",
}
"""Ids that `load` takes together with a package: no environments by themselves (`grail_envs.adapters`)."""

DEFAULT_ENV_ID = "sat"
"""What a command takes that is told no environment: it needs no data, and a tiny model learns it in minutes."""


def known_ids() -> list[str]:
    """The ids that `load` takes, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def ids_of_package(package: str) -> list[str]:
    """The environments of an installed distribution, or the one environment of that id.

    Raises:
        EnvironmentUnavailableError: neither.
    """
    if OURS in claims(package):
        return [package]
    found = sorted(point.name for point in entry_points(group=GROUP) if _owner(point) == normal(package))
    return found or [_entry_point(package).name]


def claims(env_id: str) -> dict[str, EntryPoint]:
    """The installed distributions that bring an environment of that id, by normal name; nothing is imported.

    A wheel that calls itself ours counts as ours only for what lies in our package.
    """
    return {_owner(point): point for point in entry_points(group=GROUP) if point.name == env_id}


def _owner(point: EntryPoint) -> str:
    name = normal(point.dist.name) if point.dist is not None else ""
    return "" if name == OURS and not point.value.startswith("grail_envs.") else name


def named(name: str) -> tuple[str, dict[str, Any]]:
    """Id and parameters of a name as every option `--env` takes it: `ID`, or `ID?NAME=VALUE&NAME=VALUE`, percent-encoded.

    Raises:
        ConfigurationError: what stands behind the question mark are no parameters.
    """
    env_id, asked, rest = name.partition("?")
    return env_id, parameters_of(map(unquote, rest.split("&")), where=name[:200]) if asked else {}


def parameters_of(items: Iterable[str], *, where: str) -> dict[str, Any]:
    """Parameters written NAME=VALUE; a value is read as JSON where it is JSON, else as text.

    Raises:
        ConfigurationError: an item without a name or an equals sign.
    """
    given: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"{item!r} is no parameter", where=where, hint="write NAME=VALUE")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given


def factory(env_id: str) -> Callable[..., Environment]:
    """What makes the environment `env_id` from its parameters.

    Raises:
        EnvironmentUnavailableError: unknown id, an id two wheels claim, or a wheel that cannot be imported.
    """
    return _factory(_entry_point(named(env_id)[0]))


def load(env_id: str, /, *, data_dir: str | os.PathLike[str] | None = None, **params: Any) -> Environment:
    """The environment `env_id`, an id or a name (`named`), with the given parameters (`grail-envs list` names them).

    `data_dir` is the data folder of whoever asks, not a wish of this environment: one that does not offer `data_folder` is
    made without it.

    Raises:
        EnvironmentUnavailableError: unknown id, or its data set or a package it needs is not there.
        ConfigurationError: a parameter it does not have, or a value it does not take; or it has the parameter `data_dir`
            without offering `data_folder`, or the other way round.
    """
    env_id, said = named(env_id)
    return load_exactly(env_id, {**said, **params}, data_dir)


def load_exactly(env_id: str, params: Mapping[str, Any], data_dir: str | os.PathLike[str] | None = None) -> Environment:
    """As `load`, of an id alone: a question mark in it begins no parameters."""
    return _made(env_id, _factory(_entry_point(env_id)), dict(params), data_dir)


def load_held_out(env_id: str, /, *, data_dir: str | os.PathLike[str] | None = None, **params: Any) -> Environment:
    """The environment `env_id` with the problems that nobody trains on, where it offers `held_out`; else as `load` gives it.

    Raises:
        EnvironmentUnavailableError, ConfigurationError: as `load` does.
    """
    from grail_core.capabilities import capabilities_of

    env_id, said = named(env_id)
    make = factory(env_id)
    return _made(env_id, make, {**said, **params, **(capabilities_of(make).held_out or {})}, data_dir)


def _made(
    env_id: str, make: Callable[..., Environment], params: dict[str, Any], data_dir: str | os.PathLike[str] | None
) -> Environment:
    taken = inspect.signature(make).parameters
    known = list(taken)
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    if data_dir is not None and _takes_data_folder(env_id, make, "data_dir" in known, accepts_any):
        params = {**params, "data_dir": data_dir}
    for name in params:
        if name not in known and not accepts_any:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigurationError(
                f"environment {env_id} has no parameter {name!r}",
                where=env_id,
                hint=f"{hint}its parameters: {', '.join(known) or 'none'}",
            )
    needed = [name for name, p in taken.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [name for name in needed if name not in params]
    if missing:
        raise ConfigurationError(
            f"environment {env_id} needs {' and '.join(missing)}",
            where=env_id,
            hint=" ".join(f"--param {name}=…" for name in missing) + f", or in its name: {env_id}?{missing[0]}=…",
        )
    try:
        return make(**params)
    except GrailError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"environment {env_id} does not take these parameters: {error}",
            where=env_id,
            hint="`grail-envs list` names its parameters",
        ) from error


def _takes_data_folder(env_id: str, make: Callable[..., Environment], named: bool, accepts_any: bool) -> bool:
    """What the environment declares; a declaration that contradicts its parameters is an error, never a folder not read."""
    from grail_core.capabilities import capabilities_of

    offered = capabilities_of(make).data_folder
    if offered and not named and not accepts_any:
        raise ConfigurationError(
            f"environment {env_id} offers `data_folder` but has no parameter data_dir",
            where=env_id,
            hint="give it the keyword data_dir, or take data_folder out of its capabilities",
        )
    if named and not offered:
        raise ConfigurationError(
            f"environment {env_id} has a parameter data_dir but does not offer `data_folder`, so it gets no data folder",
            where=env_id,
            hint="in its class: capabilities = Capabilities(data_folder=True), from grail_core.capabilities",
        )
    return offered


def _entry_point(env_id: str) -> EntryPoint:
    found = claims(env_id)
    if env_id in ADAPTERS:
        found[OURS] = EntryPoint(env_id, ADAPTERS[env_id], GROUP)
    allowed = {owner: point for owner, point in found.items() if owner == OURS or owner in consented()}
    if len(allowed) == 1:
        return next(iter(allowed.values()))
    if allowed:
        raise EnvironmentUnavailableError(
            f"more than one installed wheel claims the environment {env_id!r}: {' and '.join(sorted(allowed))}",
            where=", ".join(sorted(point.value for point in allowed.values())),
            hint=f"uninstall all but the one you trust, or leave the others out of {PACKAGES_VARIABLE}",
        )
    if found:
        names = sorted(filter(None, found)) or ["a wheel without a name"]
        raise EnvironmentUnavailableError(
            f"the environment {env_id!r} is brought by {' and '.join(names)}, whose code may not run on this machine: its "
            "operator has not said so",
            where=PACKAGES_VARIABLE,
            hint=f"if you trust it and what it needs, set {PACKAGES_VARIABLE}={','.join(sorted({*consented(), names[0]}))} for "
            "this command. Its code then runs in this process, beside its keys, whenever a network asks for it "
            "(docs/security.md)",
        )
    from grail_core.protocol.gradient.spec import GRADIENT  # here: it brings NumPy, which --help does without

    if env_id == GRADIENT:
        raise EnvironmentUnavailableError(
            "gradient work has no problems: it trains on a corpus, and is no environment that can be loaded",
            where=env_id,
            hint="`grail-trainer init --work gradient` begins a network of it; what a round took off the loss is in its "
            "verdict (`grail-validator explain ROUND`)",
        )
    ids = known_ids()
    near = difflib.get_close_matches(env_id, ids, n=1, cutoff=0.5) or difflib.get_close_matches(
        env_id, ADAPTERS, n=1, cutoff=0.7
    )
    hint = f"did you mean {near[0]}? " if near else ""
    raise EnvironmentUnavailableError(
        f"there is no environment {env_id!r}",
        where=env_id,
        hint=f"{hint}known: {', '.join(ids) or 'none (is grail-envs installed?)'}; with a package: {', '.join(ADAPTERS)}",
    )


def _factory(point: EntryPoint) -> Callable[..., Environment]:
    try:
        made: Callable[..., Environment] = point.load()
    except Exception as error:
        raise EnvironmentUnavailableError(
            f"the environment {point.name} cannot be imported: {type(error).__name__}: {str(error)[:200]}",
            where=point.value,
            hint="install its wheel again, with its extras; if it is your own, mend what is named",
        ) from error
    return made
