"""Whose code may run here: the distributions that this machine's operator named.

A network's manifest says which package an environment comes from, and miners and validators would import what it says. So
neither an adapter nor the registry of entry points does anything with a package of somebody else, or looks further than at
its name, unless the operator consented to that very distribution: in `GRAIL_ENVIRONMENT_PACKAGES`, or by typing it at a
command (`consent_to`), which is consent for that command and for what it starts. What consent means is what
`docs/security.md` says: code of that package and of what it needs runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from grail_core.errors import EnvironmentUnavailableError
from grail_envs.adapters.package import is_name, normal

PACKAGES_VARIABLE: Final = "GRAIL_ENVIRONMENT_PACKAGES"
_typed: set[str] = set()


def consented() -> frozenset[str]:
    """The distributions whose code may run, by normal name."""
    written = os.environ.get(PACKAGES_VARIABLE) or ""
    return frozenset(normal(name.strip()) for name in written.split(",") if is_name(name.strip()))


def consent_to(name: str, parameters: Mapping[str, Any] | None = None) -> None:
    """What a person typed as an environment, a name and its parameters, may run in this process and in those it starts.

    Of an adapter that is its package, of any other id the one wheel that claims it; nothing for an environment of ours, or
    where several claim it. Never called with what a network says.
    """
    from grail_envs.registry import ADAPTERS, OURS, claims, named  # here: the registry asks this module

    env_id, said = named(name)
    if env_id in ADAPTERS:
        consent_to_package({**said, **(parameters or {})}.get("package"))
    elif OURS not in (owners := claims(env_id)) and len(owners) == 1:
        consent_to_package(*owners)


def consent_to_package(package: object) -> None:
    """As `consent_to`, of a distribution that a person typed; what is no name of one is passed over."""
    if isinstance(package, str) and is_name(package):
        _typed.add(normal(package))
        os.environ[PACKAGES_VARIABLE] = ",".join(sorted(consented() | _typed))


def typed_here() -> dict[str, str]:
    """The variable as what was typed at this command sets it, for processes that inherit nothing else of ours."""
    return {PACKAGES_VARIABLE: ",".join(sorted(_typed))} if _typed else {}


def require_consent(package: str) -> None:
    """Raises:
    EnvironmentUnavailableError: this machine's operator did not name the distribution.
    """
    if normal(package) in consented():
        return
    already = ",".join(sorted({*consented(), normal(package)}))
    raise EnvironmentUnavailableError(
        f"this environment is made by the package {normal(package)}, whose code may not run on this machine: its operator has "
        "not said so",
        where=PACKAGES_VARIABLE,
        hint=f"if you trust it and what it needs, set {PACKAGES_VARIABLE}={already} for this command. Its code then "
        "runs here whenever a network asks for it, with what arguments the network says (docs/security.md)",
    )
