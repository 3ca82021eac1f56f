"""Verdicts read from strangers' buckets, window after window, and what scores and weights come out of them.

Whatever lies there is bounded (a verdict's size, a listing's length, 72 windows in memory) and costs its own window: what is no
verdict, not signed by whom it names, of another network or another window is named, and nothing is built on it. Rounds of
gradient work have rules of their own, which `grail-validator replay` computes again: here they are named and passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from grail_core.errors import ConfigurationError, StorageError
from grail_core.keys import ss58
from grail_core.protocol import SignedVerdict
from grail_core.protocol.constants import SCORE_MEMORY_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.scores import WeightRule
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import VERDICT_PREFIX, verdict_key, window_of_key
from grail_core.verification.score_audit import Outcome, PublishedMemory, Recomputed, spans

OF_A_ROUND: Final = "a round of gradient work: `grail-validator replay` computes its scores and weights again"


@dataclass(frozen=True)
class AuditedWindow:
    """One window: computed again, or why it could not be."""

    window: Window
    refused: str = ""  # why what lies there is no verdict; OF_A_ROUND where it is one, of a round
    status: str = ""  # scored, void, …
    found: Recomputed | None = None
    stated: tuple[tuple[int, int], ...] = ()  # the verdict's own weights
    notes: tuple[str, ...] = ()  # one line each, for a person

    @property
    def is_round(self) -> bool:
        """A verdict of gradient work lies there: nothing is computed, and nothing is wrong."""
        return self.refused == OF_A_ROUND

    @property
    def ok(self) -> bool:
        return self.found is not None and self.found.outcome is Outcome.EQUAL and not self.found.contradicted

    @property
    def word(self) -> str:
        if self.found is None:
            return "round" if self.is_round else "refused"
        return "contradicted" if self.found.contradicted else self.found.outcome.value

    @property
    def weights_json(self) -> str:
        """Canonical JSON, the bytes that stand in a verdict's body."""
        return "" if self.found is None else _weights_json(tuple(self.found.weights.items())).decode()

    @property
    def lacks(self) -> bool:
        return self.found is not None and bool(self.found.lacked)

    @property
    def rule_differs(self) -> bool:
        return self.found is not None and self.found.scores_equal and not self.found.weights_equal

    def to_json(self) -> dict[str, Any]:
        found = self.found
        value: dict[str, Any] = {"window": self.window, "result": self.word, "notes": list(self.notes)}
        if found is None:
            return value | {"refused": self.refused}
        return value | {
            "status": self.status,
            "weights": [list(pair) for pair in sorted(found.weights.items())],
            "stated": [list(pair) for pair in self.stated],
            "scores_equal": found.scores_equal,
            "weights_equal": found.weights_equal,
            "powers": [[uid, str(inputs.power)] for uid, inputs in sorted(found.score_inputs.items())],
            "filled_in": [{"validator": ss58(who), "windows": list(windows)} for who, windows in found.filled_in.items()],
            "lacked": list(found.lacked),
            "contradicted": [{"validator": ss58(who), "window": window} for who, window in found.contradicted],
        }


@dataclass(frozen=True)
class Audit:
    validator: str  # ss58
    network_id: Digest
    windows: tuple[AuditedWindow, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "validator": self.validator,
            "network_id": self.network_id.hex(),
            "windows": [one.to_json() for one in self.windows],
        }


@dataclass
class _Source:
    """One bucket, and for which windows something lies there."""

    store: ObjectStore
    windows: frozenset[Window] = field(default_factory=frozenset)

    @classmethod
    def listed(cls, store: ObjectStore) -> _Source:
        """Raises StorageError."""
        found = {window_of_key(info.key): info.key for info in store.list(VERDICT_PREFIX) if info.key.endswith("/verdict.json")}
        return cls(store, frozenset(window for window in found if window is not None and window % WINDOW_LENGTH == 0))

    def read(self, window: Window) -> SignedVerdict | SignedGradientVerdict | str:
        """A verdict that somebody signed for this window, or what is wrong with what lies there."""
        try:
            verdict = _decoded(self.store.get(verdict_key(window), max_bytes=MAX_VERDICT_BYTES))
        except StorageError as error:
            return error.what
        except (ValueError, RecursionError) as error:
            return f"not a verdict: {error}"
        if verdict.body.window != window:
            return f"a verdict of window {verdict.body.window}"
        return verdict if verdict.verify(verdict.body.network_id) else "not signed by the validator that it names"


def audit(
    source: ObjectStore,
    also: Sequence[ObjectStore],
    rule: WeightRule,
    *,
    only: Window | None = None,
    validator: Hotkey | None = None,
    network_id: Digest | None = None,
) -> Audit:
    """Compute a validator's weights again.

    Args:
        source: its bucket. also: where else verdicts that it adopted may lie.
        rule: the network's.
        only: this window alone. validator, network_id: whose, of which network; None: the newest verdict's that is one.

    Raises:
        StorageError: a bucket cannot be listed.
        ConfigurationError: there is no verdict to compute again.
    """
    own, others = _Source.listed(source), [_Source.listed(store) for store in also]
    wanted = sorted(own.windows) if only is None else sorted(own.windows & {only})
    newest = _newest(own, wanted, validator, network_id)
    if newest is None:
        raise ConfigurationError(
            "there is no verdict to compute again" if only is None else f"there is no verdict of window {only}",
            where="" if validator is None else ss58(validator),
            hint="look whether the bucket is this validator's (grail/verdicts/ is in it), and --window one that it judged; "
            "rounds of gradient work are `grail-validator replay`'s",
        )
    who, network = newest
    memory, results = PublishedMemory(who), []
    first = max(0, wanted[0] - (SCORE_MEMORY_WINDOWS - 1) * WINDOW_LENGTH)
    needed = {w for w in (*own.windows, *(w for other in others for w in other.windows)) if first <= w <= wanted[-1]}
    for window in sorted(needed):
        verdict, problem = _own_verdict(own, window, who, network)
        if verdict is not None:
            memory.add(verdict)
        notes = []
        for other in others:
            strange = _add_other(other, window, network, memory)
            if strange:
                notes.append(f"in another bucket: {strange}")
        if window in own.windows and window in wanted:
            results.append(_audited(window, verdict, problem, notes, memory, rule))
    return Audit(ss58(who), network, tuple(results))


def _decoded(raw: bytes) -> SignedVerdict | SignedGradientVerdict:
    """Errors: ValueError, RecursionError: it is neither; the words are those of a window's."""
    try:
        return SignedVerdict.decode(raw)
    except (ValueError, RecursionError) as error:
        try:
            return SignedGradientVerdict.decode(raw)
        except (ValueError, RecursionError):
            raise error from None


def _own_verdict(source: _Source, window: Window, who: Hotkey, network: Digest) -> tuple[SignedVerdict | None, str]:
    """The audited validator's verdict, or why what lies in its bucket is none."""
    if window not in source.windows:
        return None, "nothing is there"
    read = source.read(window)
    if isinstance(read, str):
        return None, read
    if read.body.network_id != network:
        return None, "a verdict of another network"
    if read.validator != who:
        return None, f"signed by {ss58(read.validator)}, another validator"
    return (None, OF_A_ROUND) if isinstance(read, SignedGradientVerdict) else (read, "")


def _add_other(source: _Source, window: Window, network: Digest, memory: PublishedMemory) -> str:
    """Add whoever's verdict lies in another bucket. Returns why there is none, "" where nothing lies there."""
    if window not in source.windows:
        return ""
    read = source.read(window)
    if isinstance(read, str):
        return read
    if read.body.network_id != network:
        return "a verdict of another network"
    if isinstance(read, SignedGradientVerdict):
        return ""
    memory.add(read)
    return ""


def _newest(
    source: _Source, windows: Sequence[Window], validator: Hotkey | None, network_id: Digest | None
) -> tuple[Hotkey, Digest] | None:
    """Whose verdicts these are, and of which network. Where both are known nothing is read."""
    if not windows:
        return None
    if validator is not None and network_id is not None:
        return validator, network_id
    for window in reversed(windows):
        read = source.read(window)
        if (
            isinstance(read, str | SignedGradientVerdict)
            or validator not in (None, read.validator)
            or network_id not in (None, read.body.network_id)
        ):
            continue
        return read.validator, read.body.network_id
    return None


def _audited(
    window: Window,
    verdict: SignedVerdict | None,
    refused: str,
    notes: Sequence[str],
    memory: PublishedMemory,
    rule: WeightRule,
) -> AuditedWindow:
    if verdict is None and refused == OF_A_ROUND:
        return AuditedWindow(window, refused, notes=(refused, *notes))
    if verdict is None:
        return AuditedWindow(window, refused, notes=(f"no verdict of this validator's: {refused}", *notes))
    body = verdict.body
    found = memory.recompute(body, rule)
    told = list(notes)
    for who, windows in found.filled_in.items():
        told.append(f"filled in from {ss58(who)}: windows {_spans(windows)}")
    if found.lacked:
        told.append(f"no verdict found of windows {_spans(found.lacked)} of its memory")
    told += [f"two verdicts of {ss58(who)} of window {when} contradict each other" for who, when in found.contradicted]
    if found.outcome is Outcome.DIFFERS:
        uids = [uid for uid, inputs in found.score_inputs.items() if body.score_inputs.get(uid) != inputs]
        what = f"scores of UIDs {', '.join(map(str, uids[:20]))} differ" if uids else "scores are equal, weights are not"
        told.append(f"{what}; the verdict has {_weights_json(tuple(body.weights.items())).decode()[:200]}")
    return AuditedWindow(window, "", body.status.value, found, tuple(sorted(body.weights.items())), tuple(told))


def _weights_json(pairs: Sequence[tuple[int, int]]) -> bytes:
    return canonical_json([list(pair) for pair in sorted(pairs)])


def _spans(windows: Sequence[Window]) -> str:
    return ", ".join(str(a) if a == b else f"{a} … {b}" for a, b in spans(windows))
