"""Which environments exist: the entry points `grail.environments` of every installed wheel.

A third party adds an environment by publishing a wheel with such an entry point; an id that two wheels claim is refused, so
that no wheel can take another's name. Nothing is imported until an environment is asked for.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError, GrailError

if TYPE_CHECKING:
    from grail_core.environment import Environment

GROUP = "grail.environments"
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
    wanted = package.replace("_", "-").lower()
    found = sorted(
        point.name
        for point in entry_points(group=GROUP)
        if point.dist is not None and point.dist.name.replace("_", "-").lower() == wanted
    )
    return found or [_entry_point(package).name]


def factory(env_id: str) -> Callable[..., Environment]:
    """What makes the environment `env_id` from its parameters.

    Raises:
        EnvironmentUnavailableError: unknown id, an id two wheels claim, or a wheel that cannot be imported.
    """
    return _factory(_entry_point(env_id))


def load(env_id: str, /, *, data_dir: str | os.PathLike[str] | None = None, **params: Any) -> Environment:
    """The environment `env_id` with the given parameters (`grail-envs list` names them).

    `data_dir` is the data folder of whoever asks, not a wish of this environment: one that does not offer `data_folder` is
    made without it.

    Raises:
        EnvironmentUnavailableError: unknown id, or its data set or a package it needs is not there.
        ConfigurationError: a parameter it does not have, or a value it does not take; or it has the parameter `data_dir`
            without offering `data_folder`, or the other way round.
    """
    return _made(env_id, factory(env_id), params, data_dir)


def load_held_out(env_id: str, /, *, data_dir: str | os.PathLike[str] | None = None, **params: Any) -> Environment:
    """The environment `env_id` with the problems that nobody trains on, where it offers `held_out`; else as `load` gives it.

    Raises:
        EnvironmentUnavailableError, ConfigurationError: as `load` does.
    """
    from grail_core.capabilities import capabilities_of

    make = factory(env_id)
    return _made(env_id, make, {**params, **(capabilities_of(make).held_out or {})}, data_dir)


def _made(
    env_id: str, make: Callable[..., Environment], params: dict[str, Any], data_dir: str | os.PathLike[str] | None
) -> Environment:
    known = list(inspect.signature(make).parameters)
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(make).parameters.values())
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
    try:
        return make(**params)
    except GrailError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"environment {env_id} does not take these parameters: {error}",
            where=env_id,
            hint=f"grail-envs show {env_id} --help",
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
    points = {(point.name, point.value): point for point in entry_points(group=GROUP) if point.name == env_id}
    if len(points) == 1:
        return next(iter(points.values()))
    if points:
        raise EnvironmentUnavailableError(
            f"more than one installed wheel claims the environment {env_id!r}",
            where=", ".join(sorted(value for _, value in points)),
            hint="uninstall all but the one you trust",
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
    near = difflib.get_close_matches(env_id, ids, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise EnvironmentUnavailableError(
        f"there is no environment {env_id!r}",
        where=env_id,
        hint=f"{hint}known: {', '.join(ids) or 'none (is grail-envs installed?)'}",
    )


def _factory(point: EntryPoint) -> Callable[..., Environment]:
    try:
        made: Callable[..., Environment] = point.load()
    except (ImportError, AttributeError) as error:
        raise EnvironmentUnavailableError(
            f"the environment {point.name} cannot be imported: {error}",
            where=point.value,
            hint="install its wheel again, with its extras",
        ) from error
    return made
