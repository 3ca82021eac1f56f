"""Signed verdicts of as many windows as one likes, by the protocol's own coins, scores and weights; no model, file or chain.

Rollouts are numbers here: a miner declares, is drawn by its coin, and passes or fails with the finding that it is given. What
comes out is what a validator of such a network would have signed, put into a folder of verdicts or into a ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from grail_core.keys import LocalSigner
from grail_core.protocol import Finding, MinerStatus, MinerVerdict, SignedVerdict, VerdictBody, Versions, WindowStatus
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.scores import MinerWindow, score_inputs, weights
from grail_core.protocol.selection import Candidate, select_miners
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdicts import WindowInputs
from grail_core.storage.layout import evidence_key, verdict_key
from grail_core.verification.wording import accept, reject
from grail_validator.ledger import Ledger, PublishedFiles

VALIDATOR: Final = LocalSigner.from_seed(b"V" * 32)
NETWORK: Final = Digest(b"n" * 32)
RULE: Final[NetworkParameters] = replace(LOCALNET, burn_uid=0, burn_share_permille=500)
EVIDENCE: Final = b"what was measured" * 1000
FAILURE: Final = (
    accept("prompt"),
    reject("proof", value=0.5, threshold=0.3, detail="coarse_error: worst RMS sketch error of 4 rollouts"),
    reject("proof", value=1.0, threshold=0.0625, detail="coarse_error_share: share of rollouts beyond the bound"),
)
_PASSED: Final = (
    accept("prompt"),
    accept("proof", value=0.002, threshold=0.3, detail="coarse_error: worst RMS sketch error of 4 rollouts"),
    accept("reward", value=38, detail="graded alike"),
)
_SEAL_MS: Final = 1_700_000_000_000


@dataclass
class PlayedNetwork:
    """`miners` work in every window; UID 0 burns. `fails`: window → UIDs that are drawn there and fail, with `findings`."""

    miners: int = 5
    declared: int = 320
    fails: Mapping[int, Collection[int]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = FAILURE
    histories: dict[Hotkey, list[MinerWindow]] = field(default_factory=dict)

    def hotkey(self, uid: int) -> Hotkey:
        return LocalSigner.from_seed(hashlib.sha256(f"miner {uid}".encode()).digest()).hotkey

    def play(self, windows: int, *, first: int = 0) -> Iterator[SignedVerdict]:
        """The verdicts of so many windows, one after the other."""
        hotkeys = {uid: self.hotkey(uid) for uid in range(1, self.miners + 1)}
        for window in range(first, first + windows * WINDOW_LENGTH, WINDOW_LENGTH):
            yield signed(self._body(Window(window), hotkeys))

    def _body(self, window: Window, hotkeys: Mapping[int, Hotkey]) -> VerdictBody:
        candidates = {}
        for hotkey in hotkeys.values():
            before = score_inputs(self.histories.get(hotkey, ()), window)
            candidates[hotkey] = Candidate(self.declared, before.supported, before.in_lookback)
        coins = {one.hotkey: one for one in select_miners(hashlib.sha256(str(window).encode()).digest(), candidates)}
        miners, inputs = [], {}
        for uid, hotkey in hotkeys.items():
            coin, fails = coins[hotkey], uid in self.fails.get(window, ())
            drawn = coin.selected or fails
            status = MinerStatus.FAILED if fails else MinerStatus.ACCEPTED if drawn else MinerStatus.NOT_SELECTED
            miner = MinerVerdict(
                hotkey,
                uid,
                status,
                content_digest=Digest(hashlib.sha256(f"{uid} {window}".encode()).digest()),
                store_time_ms=_SEAL_MS + window * 12_000,
                active=not fails,
                declared=self.declared,
                checked=drawn,
                unique_valid=self.declared - uid if drawn and not fails else 0,
                check_probability=coin.probability,
                coin=coin.coin,
                sampled=((1, 2), (3, 4)) if drawn else (),
                findings=self.findings if fails else _PASSED if drawn else (),
            )
            miners.append(miner)
            self.histories.setdefault(hotkey, []).append(miner.miner_window(window))
            del self.histories[hotkey][:-72]
            inputs[uid] = score_inputs(self.histories[hotkey], window)
        return VerdictBody(
            network_id=NETWORK,
            window=window,
            status=WindowStatus.SCORED,
            versions=Versions("grail-core/0.1.0", "made-up/1", "plain/1"),
            inputs=WindowInputs(checkpoint_digest=Digest(hashlib.sha256(str(window // 90).encode()).digest())),
            miners=tuple(miners),
            hotkeys=dict(hotkeys),
            score_inputs=inputs,
            weights=weights(inputs, RULE),
        )


def signed(body: VerdictBody, signer: LocalSigner = VALIDATOR, evidence: bytes = EVIDENCE) -> SignedVerdict:
    digest = Digest(hashlib.sha256(evidence).digest())
    message = SignedVerdict.message(body, signer.hotkey, digest)
    return SignedVerdict(body, signer.hotkey, signer.sign(message), digest)


def publish(folder: Path, verdict: SignedVerdict, evidence: bytes | None = EVIDENCE) -> None:
    """Into a folder that is laid out like a bucket."""
    put(folder, verdict_key(verdict.body.window), verdict.encode())
    if evidence is not None:
        put(folder, evidence_key(verdict.body.window), evidence)


def put(folder: Path, key: str, data: bytes) -> None:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def record(ledger: Ledger, verdict: SignedVerdict, *, published: bool = False) -> None:
    """Into a ledger, as judged; `published`: its evidence has left it."""
    ledger.record_judged(verdict.body.window, verdict.body, PublishedFiles(verdict.encode(), EVIDENCE), {}, {})
    if published:
        ledger.record_published(verdict.body.window)


def new_ledger(path: Path) -> Ledger:
    return Ledger(path, network_id=NETWORK, hotkey=VALIDATOR.hotkey)
