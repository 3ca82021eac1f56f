"""The checkpoints of the network's trainer: are they of this network, is one in force, may this software follow it."""

from __future__ import annotations

from collections.abc import Iterator

from grail_core.chain.base import Chain
from grail_core.checkpoints.manifests import CheckpointSequence, signed_for_another
from grail_core.checkpoints.source import CheckpointSource
from grail_core.checkpoints.trainer_life import TrainerLife, upgrade_line
from grail_core.errors import ConfigurationError, GrailError, UpgradeRequiredError
from grail_core.examination.findings import CHECKPOINT, Finding, broken, not_asked, ok, warning
from grail_core.examination.known import Known, Role
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.protocol import window_of
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.gradient.spec import GRADIENT
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Window


def checkpoint(settings: Settings, known: Known, role: Role) -> Iterator[Finding]:
    """The checkpoint of the running window; `known` has it then, with the shape of its model and its table."""
    if known.params is None or known.chain is None or known.directory is None:
        yield not_asked(CHECKPOINT, "checkpoint", "parameters, chain and bucket are needed for it")
        return
    try:
        network_id = known.params.network_id(known.chain.genesis_hash)
        source = CheckpointSource(
            known.chain,
            known.directory,
            known.params,
            network_id,
            settings.cache_dir,
            calibration=settings.calibration,
        )
        require_trainer_known(known.chain, known.params)
        window = window_of(known.chain.current_block())
        view = source.view()
        require_of_this_network(view)
        if role.trainer and view.head is None and not view.refused:
            yield ok(CHECKPOINT, "checkpoint", "none yet: a trainer publishes the network's first when it starts")
            return
        yield from trainer_findings(source.life(window, view), window, role.package)
        known.manifest = source.valid_at(window, view)
        yield _read(known, source, known.manifest)
    except GrailError as error:
        yield broken(CHECKPOINT, "checkpoint", error)


def require_of_this_network(view: CheckpointSequence) -> None:
    """The trainer's manifests were signed for the network of these parameters, or there are none.

    Raises:
        ConfigurationError: all that its bucket has are of another: this machine's parameters file is not the network's.
    """
    other = None if view.stored else signed_for_another(view)
    if other is not None:
        raise ConfigurationError(
            f"the trainer's checkpoints are of another network: they were signed for id {other.theirs.hex()[:16]}…, and these "
            f"parameters and this chain give {other.ours.hex()[:16]}…: no checkpoint would ever be valid",
            where="GRAIL_NETWORK",
            hint="get the network's present parameters file, byte for byte, and look at BT_NETWORK; a trainer that begins a "
            "network anew takes another bucket",
        )


def require_trainer_known(chain: Chain, params: NetworkParameters) -> None:
    """The chain knows the trainer that the parameters name. Two networks may have one name: the digest tells them apart.

    Raises:
        ConfigurationError: it does not, so these parameters are another network's. ChainError.
    """
    if chain.metagraph().by_hotkey(params.trainer_hotkey) is None:
        raise ConfigurationError(
            f"the trainer that network {params.name} names (parameters {params.digest.hex()[:12]}…) is not registered on this "
            f"subnet, netuid {chain.netuid}, so no checkpoint can be had: hotkey {ss58(params.trainer_hotkey)}",
            where="GRAIL_NETWORK",
            hint="GRAIL_NETWORK may be another network's than this chain's (BT_NETWORK, BT_CHAIN_ENDPOINT), even one of the "
            "same name: `grail network` shows a file's digest",
        )


def require_this_network(participant: Participant) -> None:
    """At a role's start: the chain knows the trainer, and its bucket is as `require_of_this_network` asks. What cannot be read
    says nothing.

    Raises:
        ConfigurationError: see there.
    """
    try:
        require_trainer_known(participant.chain, participant.params)
        view = participant.checkpoints.view()
    except ConfigurationError:
        raise
    except GrailError:
        return  # it is asked again with every window, which tells it
    require_of_this_network(view)


def _read(known: Known, source: CheckpointSource, manifest: CheckpointManifest) -> Finding:
    """Errors: CheckpointError, StorageError, ConfigurationError."""
    from grail_core.checkpoints.fetch import model_files
    from grail_core.model.described import ModelDescription
    from grail_core.proof.calibration import Shape

    model = ModelDescription.of(model_files(manifest, source.bucket()))
    known.context_length, known.shape = model.context_length, Shape(model.layers, model.hidden_size)
    known.pinned = source.table(manifest)
    told = f"checkpoint {manifest.sequence} ({manifest.digest.hex()[:16]}…)"
    told += f", {manifest.architecture}, {manifest.environment.env_id}"
    if not of_rounds(manifest):
        told += f", completions of up to {manifest.policy.max_tokens} tokens"
    return ok(CHECKPOINT, "checkpoint", told)


def trainer_findings(life: TrainerLife, window: Window, package: str) -> Iterator[Finding]:
    """What the trainer announced, and whether anything was heard of it."""
    if life.required is not None:
        error = UpgradeRequiredError(life.required, where=f"window {window}", hint=upgrade_line(package))
        yield broken(CHECKPOINT, "protocol", error)
    elif life.announced is not None:
        upgrade = life.announced
        told = f"version {upgrade.version} holds from block {upgrade.block} on, in {upgrade.windows_left(window)} windows"
        yield warning(CHECKPOINT, "protocol", told, upgrade_line(package))
    else:
        yield ok(CHECKPOINT, "protocol", f"version {PROTOCOL_VERSION}, and no later one is announced")
    if life.newest is None:
        return
    newest = life.newest
    since = f"checkpoint {newest.sequence} is in force from window {newest.valid_from}, and none came after it"
    if newest.valid_from > window:
        told = f"checkpoint {newest.sequence} ({newest.digest.hex()[:16]}…) is published"
        since = f"{told}, and in force from window {newest.valid_from} on"
    if life.silent_windows:
        hint = "nothing to do here: work goes on with the checkpoint in force"
        yield warning(CHECKPOINT, "trainer", f"silent for {life.silent_windows} windows: {since}", hint)
    else:
        yield ok(CHECKPOINT, "trainer", since)


def of_rounds(manifest: CheckpointManifest) -> bool:
    """Does this checkpoint ask for gradient work?"""
    return manifest.environment.env_id == GRADIENT
