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


def require_class(
    checkpoint: Loading,
    kind: Literal["proof", "generation", "validator"],
    params: NetworkParameters,
    *,
    engine: str = "transformers",
) -> str:
    """The numerics class that this role's models are loaded in, if the network admits it for this use.

    Args:
        engine: what computes; another than Transformers is a server of a miner's.

    Raises:
        ConfigurationError: it does not, with the list of what it admits; or it refuses what no table covers, and none has this
            class with a validator's.
    """
    admitted: tuple[str, ...] = getattr(params, f"{kind}_classes")
    device = checkpoint.device.partition(":")[0]
    where = "GRAIL_DEVICE" if engine == "transformers" else "GRAIL_PIPELINE_BACKEND"
    try:
        name = class_name(attention=checkpoint.attention, device=device, engine=engine)
    except ValueError as error:
        name, why = "", str(error)
    else:
        why = f"numerics class {name} is not among the {kind} classes of this network"
    if name not in admitted:
        hint = f"admitted {kind} classes: {', '.join(admitted)}; what is computed otherwise is refused"
        raise ConfigurationError(why, where=where, hint=hint)
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
