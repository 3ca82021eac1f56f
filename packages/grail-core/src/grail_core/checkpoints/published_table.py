"""Which calibration table a checkpoint is published with, and whether it may be: the publisher's own look, before anybody's.

The first checkpoint of a network has the shipped table, a later one that of the checkpoint before, unless the trainer is given
another. One that does not cover what the network admits at the model's shape leaves the coarse bounds alone to judge: it is
published only where the network reports such work, and only where the publisher says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.fetch import table_bytes
from grail_core.checkpoints.pinned_table import CALIBRATION_FILE, PinnedTable, parse_table, require_within_limits, shipped_bytes
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.proof.coverage import uncovered
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters


def next_table(given: bytes | None, head: CheckpointManifest | None, bucket: CheckpointBucket) -> bytes:
    """The bytes of the table that the checkpoint after `head` pins.

    Raises:
        CheckpointError, StorageError: the table of the checkpoint before cannot be had.
    """
    if given is not None:
        return given
    return shipped_bytes() if head is None else table_bytes(head, bucket)


def require_publishable(raw: bytes, config: bytes, params: NetworkParameters, *, deliberately: bool) -> PinnedTable:
    """The table, unless readers would refuse it, or it does not cover the network's classes at this model's shape.

    Args:
        config: the model's config.json. deliberately: the publisher knows that it does not.

    Raises:
        CheckpointError: with what is not covered, and what to do.
    """
    try:
        pinned = parse_table(raw)
    except ConfigurationError as error:
        raise CheckpointError(error.what, where=CALIBRATION_FILE, hint=error.hint) from error
    require_within_limits(pinned.table, params, CALIBRATION_FILE)
    missing = missing_coverage(pinned.table, shape_of(json.loads(config)), params)
    if missing is None:
        return pinned
    if params.uncalibrated == "refused":
        raise CheckpointError(
            missing,
            where=CALIBRATION_FILE,
            hint=f"{params.name} refuses what no table covers: calibrate these classes at this shape"
            " (`grail-validator calibrate`) and publish with --calibration",
        )
    if not deliberately:
        raise CheckpointError(
            missing,
            where=CALIBRATION_FILE,
            hint="such work is judged by the coarse bounds alone; publish another table with --calibration, or this one all the"
            " same with --uncovered",
        )
    return pinned


def missing_coverage(table: CalibrationTable, shape: Shape | None, params: NetworkParameters) -> str | None:
    """Which admitted classes nobody's statistics are enforced of, in words; None where all are covered."""
    if shape is None:
        return "config.json does not say how many layers and dimensions the model has, so no table covers it"
    found = uncovered(table, params, shape)
    if not found:
        return None
    first = found[0]
    rest = "" if len(found) == 1 else f" and {len(found) - 1} more pairs"
    return (
        f"calibration {table.version} does not cover {first.use} in {first.miner} measured in {first.measured_in}{rest}"
        f" for {shape.layers} layers of {shape.hidden_size}"
    )


def shape_of(config: Mapping[str, object]) -> Shape | None:
    """Of a configuration as it stands; a model of several parts has its text model's."""
    text = config.get("text_config")
    found = {**config, **(text if isinstance(text, dict) else {})}
    layers, hidden = found.get("num_hidden_layers"), found.get("hidden_size")
    if type(layers) is not int or type(hidden) is not int or layers < 1 or hidden < 1:
        return None
    return Shape(layers, hidden)
