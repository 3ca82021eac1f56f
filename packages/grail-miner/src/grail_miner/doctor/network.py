"""The network as this miner meets it: parameters, wallet, chain and clock, registration, classes, bucket, checkpoint, problems.

Every question is asked whatever the others gave, unless an answer is needed for it: then it is named as not asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grail_core.checkpoints.trainer_life import TrainerLife, upgrade_line
from grail_core.clock import wall_clock_ms
from grail_core.errors import CheckpointError, ConfigurationError, GrailError, UpgradeRequiredError
from grail_core.participant.deployment import (
    load_signer,
    network_parameters,
    open_beacon,
    open_chain,
    open_directory,
    require_registered,
)
from grail_core.participant.settings import Settings
from grail_core.protocol import window_of
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.gradient.spec import GRADIENT
from grail_core.protocol.types import Window
from grail_miner.doctor.findings import Finding, broken, not_asked, ok, warning

if TYPE_CHECKING:
    from grail_core.chain.base import Chain
    from grail_core.checkpoints.pinned_table import PinnedTable
    from grail_core.proof.calibration import Shape
    from grail_core.protocol.manifest import CheckpointManifest
    from grail_core.protocol.network import NetworkParameters
    from grail_core.protocol.signer import Signer
    from grail_core.storage.base import StoreDirectory

NETWORK = "network"
_PACKAGE = "grail-miner"
CLOCK_TOLERANCE_MS = 5_000
_LATE_BLOCKS = 5  # a newest block older than so many block times tells of a node that is behind, or of a clock


@dataclass
class Known:
    """What was learned on the way, for the questions that need it."""

    params: NetworkParameters | None = None
    chain: Chain | None = None
    directory: StoreDirectory | None = None
    signer: Signer | None = None
    manifest: CheckpointManifest | None = None
    context_length: int | None = None  # tokens, of the checkpoint's model
    shape: Shape | None = None  # of the checkpoint's model
    pinned: PinnedTable | None = None  # the calibration table that the checkpoint pins


def here(settings: Settings, known: Known) -> Iterator[Finding]:
    """What needs nobody else: network parameters and wallet."""
    try:
        known.params = network_parameters(settings)
        yield ok(NETWORK, "parameters", f"{known.params.name}, netuid {known.params.netuid} (GRAIL_NETWORK)")
    except GrailError as error:
        yield broken(NETWORK, "parameters", error)
    try:
        from grail_core.keys import ss58

        known.signer = load_signer(settings)
        yield ok(NETWORK, "wallet", f"{settings.wallet_cold}/{settings.wallet_hot}: {ss58(known.signer.hotkey)}")
    except GrailError as error:
        yield broken(NETWORK, "wallet", error)


def chain(settings: Settings, known: Known) -> Iterator[Finding]:
    """The chain, this machine's clock against it, and this hotkey's place."""
    try:
        opened = open_chain(settings)
        head = opened.current_block()
        newest = opened.block(head).timestamp_ms
        known.chain = opened
        yield ok(NETWORK, "chain", f"block {head} of netuid {opened.netuid}")
    except GrailError as error:
        yield broken(NETWORK, "chain", error)
        for name in ("clock", "registration"):
            yield not_asked(NETWORK, name, "the chain does not answer")
        return
    # A development chain has its netuid in its file; what the operator says counts all the same, as when a role starts.
    asked = settings.netuid if "netuid" in settings.model_fields_set else opened.netuid
    other = next((n for n in (asked, opened.netuid) if known.params is not None and n != known.params.netuid), None)
    if known.params is not None and other is not None:
        told = f"the chain is asked for netuid {other}, and network {known.params.name} is on {known.params.netuid}"
        hint = "set NETUID to the network's, or GRAIL_NETWORK to the file of this subnet's network"
        yield broken(NETWORK, "netuid", ConfigurationError(told, where="NETUID", hint=hint))
    yield _clock(settings, known, newest)
    if known.signer is None:
        yield not_asked(NETWORK, "registration", "there is no wallet")
        return
    try:
        neuron = require_registered(opened, known.signer, settings)
        bucket = "with a bucket" if neuron.commitment else "without a bucket yet: it is committed at the first start"
        yield ok(NETWORK, "registration", f"UID {neuron.uid}, {bucket}")
    except GrailError as error:
        yield broken(NETWORK, "registration", error)


def _clock(settings: Settings, known: Known, newest_ms: int) -> Finding:
    if settings.bt_network == "local":
        return not_asked(NETWORK, "clock", "a development chain has a clock of its own, which everybody follows")
    age_ms = wall_clock_ms() - newest_ms
    block_ms = known.params.block_time_ms if known.params else 12_000
    told = f"the newest block is {age_ms / 1000:.1f} s old by this machine's clock (a block is {block_ms / 1000:.0f} s)"
    if age_ms < -CLOCK_TOLERANCE_MS:
        hint = "set the clock by NTP: deadlines and beacon rounds follow it"
        return broken(NETWORK, "clock", ConfigurationError(f"this machine's clock is slow: {told}", where="clock", hint=hint))
    if age_ms > _LATE_BLOCKS * block_ms:
        return warning(
            NETWORK, "clock", f"{told}: the clock is fast, or the node is behind", "look at both: NTP, BT_CHAIN_ENDPOINT"
        )
    return ok(NETWORK, "clock", told)


def beacon(settings: Settings, known: Known) -> Iterator[Finding]:
    """A round that is out by this machine's clock can be had, and verifies; where it cannot, the clock may be fast."""
    if known.params is None or known.chain is None:
        yield not_asked(NETWORK, "beacon", "parameters and chain are needed for it")
        return
    if known.params.beacon_policy == "off":
        yield ok(NETWORK, "beacon", "this network has none")
        return
    try:
        relays = open_beacon(settings, known.params)
        due = relays.chain.round_at(known.chain.now_ms()) - 2
        relays.get(due)
        yield ok(NETWORK, "beacon", f"round {due} verifies")
    except GrailError as error:
        yield broken(NETWORK, "beacon", error)


def bucket(settings: Settings, known: Known) -> Iterator[Finding]:
    """What `grail storage doctor` tries."""
    if known.params is None or known.chain is None:
        yield not_asked(NETWORK, "bucket", "parameters and chain are needed for it")
        return
    from grail_core.commands.storage_doctor import examine

    try:
        known.directory = open_directory(settings, known.params, known.chain)
        for one in examine(known.directory, known.chain.now_ms):
            if one.ok:
                yield ok(NETWORK, f"bucket: {one.name}", one.detail)
            else:
                from grail_core.errors import StorageError

                yield broken(NETWORK, f"bucket: {one.name}", StorageError(one.detail, hint="see `grail storage doctor`"))
    except GrailError as error:
        yield broken(NETWORK, "bucket", error)


def checkpoint(settings: Settings, known: Known) -> Iterator[Finding]:
    """The checkpoint of the running window, and whether its environment, or the corpus of gradient work, is here."""
    if known.params is None or known.chain is None or known.directory is None:
        for name in ("checkpoint", "environment"):
            yield not_asked(NETWORK, name, "parameters, chain and bucket are needed for it")
        return
    from grail_core.checkpoints.fetch import model_files
    from grail_core.checkpoints.source import CheckpointSource
    from grail_core.model.described import ModelDescription
    from grail_core.proof.calibration import Shape

    try:
        network_id = known.params.network_id(known.chain.genesis_hash)
        source = CheckpointSource(
            known.chain, known.directory, known.params, network_id, settings.cache_dir, calibration=settings.calibration
        )
        window = window_of(known.chain.current_block())
        view = source.view()
        yield from trainer_findings(source.life(window, view), window)
        known.manifest = source.valid_at(window, view)
        files = model_files(known.manifest, source.bucket())
        model = ModelDescription.of(files)
        known.context_length, known.shape = model.context_length, Shape(model.layers, model.hidden_size)
        known.pinned = source.table(known.manifest)
        policy = known.manifest.policy
        yield ok(
            NETWORK,
            "checkpoint",
            f"{known.manifest.digest.hex()[:16]}…, {known.manifest.architecture}, {known.manifest.environment.env_id}"
            + ("" if of_rounds(known.manifest) else f", completions of up to {policy.max_tokens} tokens"),
        )
    except GrailError as error:
        yield broken(NETWORK, "checkpoint", error)
        yield not_asked(NETWORK, "environment", "the checkpoint names it")
        return
    yield _corpus(settings, known.manifest) if of_rounds(known.manifest) else _environment(settings, known.manifest)


def trainer_findings(life: TrainerLife, window: Window) -> Iterator[Finding]:
    """What the trainer announced, and whether anything was heard of it."""
    if life.required is not None:
        error = UpgradeRequiredError(life.required, where=f"window {window}", hint=upgrade_line(_PACKAGE))
        yield broken(NETWORK, "protocol", error)
    elif life.announced is not None:
        upgrade = life.announced
        told = f"version {upgrade.version} holds from block {upgrade.block} on, in {upgrade.windows_left(window)} windows"
        yield warning(NETWORK, "protocol", told, upgrade_line(_PACKAGE))
    else:
        yield ok(NETWORK, "protocol", f"version {PROTOCOL_VERSION}, and no later one is announced")
    if life.newest is None:
        return
    since = f"checkpoint {life.newest.sequence} is in force from window {life.newest.valid_from}, and none came after it"
    if life.silent_windows:
        hint = "nothing to do here: work goes on with the checkpoint in force"
        yield warning(NETWORK, "trainer", f"silent for {life.silent_windows} windows: {since}", hint)
    else:
        yield ok(NETWORK, "trainer", since)


def of_rounds(manifest: CheckpointManifest) -> bool:
    """Does this checkpoint ask for gradient work?"""
    return manifest.environment.env_id == GRADIENT


def _corpus(settings: Settings, manifest: CheckpointManifest) -> Finding:
    """Nothing is fetched for this question: a corpus may have many gigabytes."""
    from grail_envs.corpus.opening import corpus_of

    try:
        spec = corpus_of(manifest.environment, data_dir=settings.data_dir).spec
    except ValueError as error:
        return broken(NETWORK, "corpus", CheckpointError(f"the checkpoint's gradient work cannot be read here: {error}"))
    except GrailError as error:
        return warning(
            NETWORK, "corpus", f"{error.what}; a miner asks the trainer's bucket for it with the first round", hint=error.hint
        )
    return ok(NETWORK, "corpus", f"{spec.name}, {spec.sequences} sequences of {spec.sequence_length} tokens")


def _environment(settings: Settings, manifest: CheckpointManifest) -> Finding:
    from grail_envs.bound import load_bound

    spec = manifest.environment
    try:
        load_bound(spec, manifest.env_digest, settings.data_dir)
    except GrailError as error:
        return broken(NETWORK, "environment", error)
    return ok(NETWORK, "environment", f"{spec.env_id} version {spec.version}: the same as the checkpoint's")
