"""The calibration table that a checkpoint pins: one of its manifest's files, so that all validators of a network decide alike.

The trainer's signature covers its digest, and the network's parameters say how wide it may be (`CalibrationLimits`): a table
that is missing, does not parse or is wider is refused by everybody who reads the checkpoint, whoever signed it. A copy on this
machine (GRAIL_CALIBRATION) is only another place to have the same bytes from. Its bytes are a stranger's: bounded before they
are parsed. What a table means is `grail_core.proof.calibration`'s.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Final

from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.proof.calibration import (
    CALIBRATION_FILE,
    MAX_TABLE_BYTES,
    CalibrationTable,
    Coverage,
    PairCalibration,
    Shape,
    share_of_pooled,
)
from grail_core.proof.coverage import coverage_of, measured_in_classes
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.manifest import CheckpointManifest, ObjectRef
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Digest

__all__ = [
    "CALIBRATION_FILE",
    "LEAST_ROLLOUTS",
    "LIMIT_ROLLOUTS",
    "MAX_TABLE_BYTES",
    "PinnedTable",
    "excesses",
    "given_table",
    "limited_figures",
    "parse_table",
    "pinned_object",
    "pinned_table",
    "read_own_copy",
    "read_table_file",
    "require_within_limits",
    "shipped",
    "shipped_bytes",
]

LIMIT_ROLLOUTS: Final = 64
"""The sample that a network's limits speak of: the most that a challenge draws."""

LEAST_ROLLOUTS: Final = 2 * ROLLOUTS_PER_PROBLEM
"""Two groups: a table whose threshold no value can exceed there switches the test off."""

LEAST_REACH: Final = Shape(4, 128)
KEPT_CLASSES: Final = ("bf16-sdpa-cpu-transformers", "bf16-eager-cpu-transformers")
"""No table may leave a model so small to the coarse bounds in classes that tables have been made for: a trainer would switch
every finer test off by pinning an empty one. Constants, not what the shipped table covers: releases must agree on a table."""

_UNSET = (
    "all validators of a network judge with the table that its checkpoint pins: unset GRAIL_CALIBRATION to use the checkpoint's"
    " own, or put that very file there"
)


@dataclass(frozen=True)
class PinnedTable:
    """A table and the SHA-256 of the bytes that it was parsed from."""

    table: CalibrationTable
    digest: Digest

    @property
    def name(self) -> str:
        """What verdicts say: version and the digest's first 16 hexadecimal digits."""
        return f"{self.table.version} {self.digest.hex()[:16]}"


def shipped() -> PinnedTable:
    """The table in the package: a network's first checkpoint has it, unless its trainer is given another."""
    return parse_table(shipped_bytes())


@lru_cache(maxsize=1)
def shipped_bytes() -> bytes:
    return resources.files("grail_core.proof").joinpath(CALIBRATION_FILE).read_bytes()


@lru_cache(maxsize=8)
def parse_table(raw: bytes) -> PinnedTable:
    """A table from whatever bytes.

    Raises:
        ConfigurationError: they are too many, no JSON, or no table; the field is in the text.
    """
    return PinnedTable(CalibrationTable.from_bytes(raw), Digest(hashlib.sha256(raw).digest()))


def read_table_file(path: Path) -> bytes:
    """The bytes of a table on this machine, which parse.

    Raises:
        ConfigurationError: it is no regular file, cannot be read, or holds no table; file and field are named.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            raw = file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"the calibration table cannot be read: {error.strerror}",
            where=str(path),
            hint="make one with `grail-validator calibrate`, or leave it out to have the checkpoint's own",
        ) from error
    try:
        parse_table(raw)
    except ConfigurationError as error:
        raise ConfigurationError(error.what, where=str(path), hint=error.hint) from error
    return raw


def read_own_copy(path: Path) -> bytes:
    """What GRAIL_CALIBRATION names, read as `read_table_file` does; nobody needs one, so its errors say how to do without.

    Raises:
        ConfigurationError: as `read_table_file`.
    """
    try:
        return read_table_file(path)
    except ConfigurationError as error:
        raise ConfigurationError(error.what, where=f"GRAIL_CALIBRATION={path}", hint=_UNSET) from error


def pinned_object(manifest: CheckpointManifest) -> ObjectRef:
    """The object that holds the manifest's table.

    Raises:
        CheckpointError: it pins none, or one that is larger than any.
    """
    where = _of(manifest)
    found = next((file.object for file in manifest.files if file.path == CALIBRATION_FILE), None)
    if found is None:
        raise CheckpointError(
            f"the checkpoint pins no calibration table: it has no {CALIBRATION_FILE}",
            where=where,
            hint="nobody can say what honest work is there; the trainer publishes with this version of the software",
        )
    if found.size > MAX_TABLE_BYTES:
        raise CheckpointError(
            f"the calibration table has {found.size} bytes, the limit is {MAX_TABLE_BYTES}",
            where=f"{where}: {CALIBRATION_FILE}",
        )
    return found


def pinned_table(manifest: CheckpointManifest, raw: bytes, params: NetworkParameters) -> PinnedTable:
    """The table of a manifest from the bytes of its file, as the network admits it.

    Raises:
        CheckpointError: they are not the manifest's, hold no table, or one that is wider than the network's limits.
    """
    where = f"{_of(manifest)}: {CALIBRATION_FILE}"
    if hashlib.sha256(raw).digest() != pinned_object(manifest).sha256:
        raise CheckpointError("the file is not the one that the manifest names", where=where)
    try:
        pinned = parse_table(raw)
    except ConfigurationError as error:
        raise CheckpointError(error.what, where=where, hint="the trainer published it; take part when it is mended") from error
    require_within_limits(pinned.table, params, where)
    return pinned


def given_table(manifest: CheckpointManifest, path: Path, params: NetworkParameters) -> PinnedTable:
    """The table of a manifest from a file that an operator keeps.

    Raises:
        ConfigurationError: the file cannot be read, holds no table, or another than the manifest pins.
        CheckpointError: the manifest pins none, or one that is wider than the network's limits.
    """
    raw = read_own_copy(path)
    wanted, found = pinned_object(manifest).sha256, hashlib.sha256(raw).digest()
    if found != wanted:
        raise ConfigurationError(
            f"this calibration table has digest {found.hex()}, and checkpoint {manifest.sequence} pins {wanted.hex()}",
            where=f"GRAIL_CALIBRATION={path}",
            hint=_UNSET,
        )
    return pinned_table(manifest, raw, params)


def require_within_limits(table: CalibrationTable, params: NetworkParameters, where: str) -> None:
    """Refuse a table by which more passes than the network admits.

    Raises:
        CheckpointError: with statistic, pair and both figures.
    """
    excess = next(excesses(table, params), None)
    if excess is not None:
        raise CheckpointError(
            f"the calibration table is wider than {params.name} admits: {excess}",
            where=where,
            hint="the network's calibration_limits bound what a trainer may pin; no reader follows a wider table",
        )


def excesses(table: CalibrationTable, params: NetworkParameters) -> Iterator[str]:
    """What of a table is beyond the network's limits, or not there at all, for classes that may be used on it."""
    for pair in table.pairs.values():
        used = _used(pair, params)
        of_pair = f"for {pair.miner} measured in {pair.validator}"
        for name, value, most in limited_figures(pair, params):
            if name in used and value > most:
                yield f"{name} is {value:.4g}, at most {most:g}, {of_pair}"
        for name, null in pair.nulls.items():
            threshold = null.threshold(LEAST_ROLLOUTS, share_of_pooled())
            if f"{name} threshold" in used and threshold >= null.high:
                where = f"at {LEAST_ROLLOUTS} rollouts"
                yield f"{name} threshold {where} is {threshold:.4g}, and no value is above {null.high:g}, {of_pair}"
    for one in coverage_of(table, params, LEAST_REACH):
        if one.coverage is Coverage.NONE and {one.miner, one.measured_in} <= {*KEPT_CLASSES}:
            yield (
                f"nothing is enforced of {one.use} in {one.miner} measured in {one.measured_in},"
                f" not even for {LEAST_REACH.layers} layers of {LEAST_REACH.hidden_size}"
            )


def _used(pair: PairCalibration, params: NetworkParameters) -> set[str]:
    """Which of `limited_figures` any file's verdict can rest on: a validator measures with the attention of the proof class, or
    with SDPA, so its tests of proofs do not take every pair of two kinds, and those of tokens may."""
    measured_in = {name for own in params.validator_classes for name in measured_in_classes(pair.miner, own)}
    used = {"twin_margin threshold", "logit_variance"} if pair.miner in params.generation_classes else set()
    if pair.miner in params.proof_classes and pair.validator in measured_in:
        used |= {f"{name} threshold" for name in pair.nulls if name != "twin_margin"} | {"sketch_variance"}
    return used


def limited_figures(pair: PairCalibration, params: NetworkParameters) -> Iterator[tuple[str, float, float]]:
    """(name, the table's figure, the network's limit) of everything that a network limits."""
    limits, alpha = params.calibration_limits, share_of_pooled()
    for name in pair.nulls:
        yield f"{name} threshold", pair.widest_threshold(name, LIMIT_ROLLOUTS, alpha), getattr(limits, name) / 1000
    yield "logit_variance", pair.logit_variance, limits.logit_variance / 1000
    yield "sketch_variance", pair.sketch_variance, limits.sketch_variance / 1000


def _of(manifest: CheckpointManifest) -> str:
    return f"checkpoint {manifest.sequence}, in force from window {manifest.valid_from}"
