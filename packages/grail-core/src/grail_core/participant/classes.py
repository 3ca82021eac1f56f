"""Numerics classes at start-up: who would compute otherwise than the network admits is told before it works for nothing."""

from __future__ import annotations

from typing import Literal, Protocol

from grail_core.errors import ConfigurationError
from grail_core.proof.calibration import shipped_table
from grail_core.proof.numerics import class_name
from grail_core.protocol.network import NetworkParameters


class Loading(Protocol):
    """How a role loads its models."""

    @property
    def attention(self) -> str: ...

    @property
    def device(self) -> str: ...


Kind = Literal["proof", "generation", "validator"]


def require_class(checkpoint: Loading, kind: Kind, params: NetworkParameters) -> str:
    """The numerics class that this role's models are loaded in, if the network admits it for this use.

    Raises:
        ConfigurationError: it does not, with the list of what it admits; or it refuses what no table covers, and none has this
            class with a validator's.
    """
    try:
        name = class_name(attention=checkpoint.attention, device=checkpoint.device.partition(":")[0])
    except ValueError as error:
        raise _refused(str(error), kind, params, "GRAIL_DEVICE") from error
    return require_class_named(name, kind, params, where="GRAIL_DEVICE")


def require_class_named(name: str, kind: Kind, params: NetworkParameters, *, where: str) -> str:
    """The same of a class that something else computes in: an engine's (`grail_core.proof.numerics.engine_class`).

    Args:
        where: the setting that chose it.

    Raises:
        ConfigurationError: as `require_class`.
    """
    admitted: tuple[str, ...] = getattr(params, f"{kind}_classes")
    if name not in admitted:
        raise _refused(f"numerics class {name} is not among the {kind} classes of this network", kind, params, where)
    if kind != "validator" and params.uncalibrated == "refused":
        table = shipped_table()
        for validator in params.validator_classes:
            if table.lookup(name, validator) is None:
                raise ConfigurationError(
                    f"calibration {table.version} has no table of {name} with validators' {validator}",
                    where=where,
                    hint=f"{params.name} refuses what no table covers: every seal of this miner would be refused",
                )
    return name


def _refused(why: str, kind: Kind, params: NetworkParameters, where: str) -> ConfigurationError:
    admitted: tuple[str, ...] = getattr(params, f"{kind}_classes")
    hint = f"admitted {kind} classes: {', '.join(admitted)}; what is computed otherwise is refused"
    return ConfigurationError(why, where=where, hint=hint)
