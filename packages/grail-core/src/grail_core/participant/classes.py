"""Numerics classes: who would compute otherwise than the network admits is told before it works for nothing.

Whether a class is admitted is known at start-up; whether its work is covered, once the checkpoint is, which pins the table.
"""

from __future__ import annotations

from typing import Literal, Protocol

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.proof.coverage import uncovered
from grail_core.proof.numerics import class_name
from grail_core.protocol.network import NetworkParameters


class Loading(Protocol):
    """How a role loads its models."""

    @property
    def attention(self) -> str: ...

    @property
    def device(self) -> str: ...


Kind = Literal["proof", "generation", "validator"]


def require_class(
    checkpoint: Loading,
    kind: Kind,
    params: NetworkParameters,
    *,
    engine: str = "transformers",
) -> str:
    """The numerics class that this role's models are loaded in, if the network admits it for this use.

    Args:
        engine: what computes; another than Transformers is a server of a miner's.

    Raises:
        ConfigurationError: it does not, with the list of what it admits.
    """
    where = "GRAIL_DEVICE" if engine == "transformers" else "GRAIL_PIPELINE_BACKEND"
    try:
        name = class_name(attention=checkpoint.attention, device=checkpoint.device.partition(":")[0], engine=engine)
    except ValueError as error:
        raise _refused(str(error), kind, params, where) from error
    return require_class_named(name, kind, params, where=where)


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
    return name


def require_covered(
    proof_class: str, generation_class: str, table: CalibrationTable, shape: Shape, params: NetworkParameters
) -> None:
    """A miner's classes against the table that its checkpoint pins.

    Raises:
        ProtocolViolationError: the network refuses what no table covers, and this one covers them not at this shape.
    """
    if params.uncalibrated != "refused":
        return
    missing = uncovered(table, params, shape, proof=proof_class, generation=generation_class)
    if missing:
        raise ProtocolViolationError(
            f"calibration {table.version} does not cover {missing[0].use} in {missing[0].miner} measured in"
            f" {missing[0].measured_in}, for {shape.layers} layers of {shape.hidden_size}",
            hint=f"{params.name} refuses what no table covers: every seal of this miner would be refused",
        )


def _refused(why: str, kind: Kind, params: NetworkParameters, where: str) -> ConfigurationError:
    admitted: tuple[str, ...] = getattr(params, f"{kind}_classes")
    hint = f"admitted {kind} classes: {', '.join(admitted)}; what is computed otherwise is refused"
    return ConfigurationError(why, where=where, hint=hint)
