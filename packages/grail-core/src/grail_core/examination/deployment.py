"""All checks that every role shares, in their order: once for a doctor, who asks everything, and once for a start.

A start asks what needs nobody else, and tells all of it in one error; chain, store and beacon are asked by what it then opens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from grail_core.errors import ConfigurationError
from grail_core.examination import chain, checkpoint, device, folders, network, relays
from grail_core.examination import settings as settings_checks
from grail_core.examination.findings import (
    BEACON,
    BUCKET,
    CHAIN,
    CHECKPOINT,
    ENGINE,
    SETTINGS,
    WALLET,
    Finding,
    broken,
    not_asked,
    tried,
)
from grail_core.examination.known import Known, Role
from grail_core.examination.report import refuse
from grail_core.participant.deployment import require_trainer_hotkey
from grail_core.participant.missing import Opened, open_everything
from grail_core.participant.settings import Resolution, Settings

_ASKED_OUTSIDE = ((BUCKET, "bucket"), (CHAIN, "chain"), (CHAIN, "clock"), (CHAIN, "registration"), (BEACON, "beacon"))


def examine(
    found: Resolution,
    faults: tuple[ConfigurationError, ...],
    role: Role,
    known: Known,
    *,
    offline: bool = False,
) -> Iterator[Finding]:
    """What settings, network, wallet, bucket, chain, beacon and the trainer's checkpoints show; `known` is filled."""
    settings = found.settings
    yield from settings_checks.as_given(found, faults)
    yield from settings_checks.odd(settings, found.origins)
    yield from settings_checks.other_tools()
    yield from settings_checks.log_file(settings)
    yield from network.parameters(settings, known)
    yield from network.wallet(settings, known, role)
    if offline:
        yield from network.bucket_settings(settings, known)
        for section, name in (*_ASKED_OUTSIDE, (CHECKPOINT, "checkpoint")):
            yield not_asked(section, name, "--offline")
        return
    yield from chain.chain(settings, known, role)
    if known.chain is None:
        yield from network.bucket_settings(settings, known)
    yield from network.bucket(settings, known)
    yield from relays.beacon(settings, known)
    yield from checkpoint.checkpoint(settings, known, role)


def require_start(settings: Settings, role: Role, *more: Callable[[], object]) -> Opened:
    """What this machine alone can tell of a start that cannot work, all of it at once.

    Args:
        more: what only this role needs; a GrailError that one raises is told with the others.

    Returns what was opened, for `Participant.from_settings`.

    Raises:
        GrailError: the one that is wrong, or of several `SeveralMissingError` (settings, network, wallet, bucket, chain,
            devices, disk, in this order).
    """
    opened = open_everything(settings)
    asked = list(settings_checks.odd(settings))  # of the settings, all that is missing and more
    asked += [broken(one.part, one.part, one.error) for one in opened.missing if one.part != SETTINGS]
    params, signer = opened.params, opened.signer
    if role.trainer and params is not None and signer is not None:
        asked += tried(WALLET, "trainer's hotkey", lambda: require_trainer_hotkey(params, signer.hotkey))
    of_role = [finding for one in more for finding in tried(ENGINE, "engine", one)]
    if not any(one.error is not None and one.error.where == "GRAIL_DEVICE" for one in of_role):  # told once
        asked += device.device(settings)
    asked += folders.folders(folders.of_role(settings))
    asked += of_role
    refuse(asked)
    return opened
