"""Specs, seals, headers and rounds of gradient work as honest miners of nobody in particular would make them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from grail_core.protocol.gradient.judging import MinerFacts, RoundFacts
from grail_core.protocol.gradient.records import UpdateHeader
from grail_core.protocol.gradient.seal import GradientSeal, GradientSealHeader
from grail_core.protocol.gradient.spec import GRADIENT, GradientSpec
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.scores import WeightRule
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from grail_core.protocol.verdicts import Versions, WindowInputs
from tooling.testing.gradient_specs import TINY

NETWORK = Digest(hashlib.sha256(b"a network of gradients").digest())
ROUND = Window(300)


def digest(*words: object) -> Digest:
    return Digest(hashlib.sha256(repr(words).encode()).digest())


def update_header(hotkey: Hotkey, *, batch: int = 8, window: Window = ROUND, spec: GradientSpec = TINY) -> UpdateHeader:
    return UpdateHeader(
        protocol_version=1,
        gradient_version=1,
        window=window,
        block_hash=digest("block", window),
        beacon_round=7,
        beacon_signature=bytes(range(48)),
        hotkey=hotkey,
        uid=3,
        checkpoint_digest=digest("checkpoint"),
        env_digest=digest("environment"),
        batch=batch,
        declared=spec.inner_steps * batch,
        body_digest=digest("body", hotkey),
        delta_root=digest("delta", hotkey),
        theta_end_root=digest("theta", hotkey),
        moment_end_roots=(digest("m", hotkey), digest("v", hotkey)) if spec.committed_steps else None,
        step_roots=tuple(digest("step", hotkey, j) for j in range(spec.committed_steps)),
        feedback_before=Digest(bytes(32)),
        feedback_after=digest("feedback", hotkey, window),
        proof_class="fp32-eager-cpu-transformers",
        software={"grail-core": "0.1.0"},
    )


def seal_of(signer: Signer, header: GradientSealHeader, content: bytes, network: bytes = NETWORK) -> GradientSeal:
    """The signed seal of a file of these bytes."""
    content_digest = Digest(hashlib.sha256(content).digest())
    message = GradientSeal.message(network, GRADIENT, header, content_digest, len(content))
    return GradientSeal(GRADIENT, header, content_digest, len(content), signer.sign(message))


def unsigned_seal(hotkey: Hotkey, *, batch: int = 8, window: Window = ROUND, spec: GradientSpec = TINY) -> GradientSeal:
    """A seal as one that was taken: rules that come later look at no signature."""
    header = update_header(hotkey, batch=batch, window=window, spec=spec).seal_header()
    return GradientSeal(GRADIENT, header, digest("file", hotkey, window), 8000, Signature(bytes(64)))


def hotkey_of(uid: int) -> Hotkey:
    return Hotkey(digest("hotkey", uid))


def losses(mean: int, *words: object, n: int = 64, spread: int = 400) -> tuple[int, ...]:
    """Differences of n sequences around a mean, in 2⁻²⁰ nats."""
    stream = hashlib.shake_256(repr(words).encode()).digest(4 * n)
    return tuple(mean + int.from_bytes(stream[4 * i : 4 * i + 4]) % (2 * spread) - spread for i in range(n))


def round_facts(
    miners: Sequence[MinerFacts],
    registered: Mapping[int, Hotkey],
    window: Window = ROUND,
    spec: GradientSpec = TINY,
    rule: WeightRule = LOCALNET,
) -> RoundFacts:
    """A scored round of a network that does gradient work alone."""
    return RoundFacts(
        network_id=NETWORK,
        spec=spec,
        window=window,
        versions=Versions("grail-core 0.1.0", "", "gradient/1"),
        inputs=WindowInputs(digest("block", window), digest("select", window), 7, 9, digest("checkpoint"), digest("env")),
        rule=rule,
        registered=registered,
        select_seed=digest("select seed", window),
        miners=tuple(miners),
    )
