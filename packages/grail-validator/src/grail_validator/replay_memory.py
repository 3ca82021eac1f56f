"""What a validator remembered when it judged a window, made again from its earlier verdicts and the files they accept.

Scores come from the verdicts themselves, its own and those of whom it adopted. Which rollouts had counted before comes from
the accepted files of the last twelve windows. Where a verdict says that all distinct rollouts of a file counted, they did;
where fewer counted, the windows before that one say which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grail_core.errors import StorageError
from grail_core.files.window_file import WindowFileError
from grail_core.protocol import MinerStatus, MinerWindow, SignedVerdict, WindowStatus
from grail_core.protocol.constants import SCORE_MEMORY_WINDOWS, UNIQUE_HISTORY_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.verification.uniqueness import distinct_rollouts
from grail_core.verification.window_file import OpenFile, Submission, bind_rows
from grail_validator.published import BucketVerdicts, Published

_IDENTITIES_KEPT: Final = 2 * UNIQUE_HISTORY_WINDOWS
"""Windows before the one replayed whose rollouts stay in memory."""


@dataclass(frozen=True)
class VerdictFault:
    """A verdict that is none, with the reason."""

    what: str


@dataclass(frozen=True)
class Remembered:
    """What later windows depend on of one verdict."""

    adopted: tuple[Hotkey, Window, Window] | None
    scored: bool
    miners: dict[Hotkey, MinerWindow]
    accepted: dict[Hotkey, Digest]  # files


@dataclass(frozen=True)
class Counted:
    """Rollouts that a hotkey had counted before a window. `missing` says what of them could not be made again."""

    identities: frozenset[Digest]
    missing: str = ""


class ReplayMemory:
    """One validator's, window by window; what was read for one window is kept for the next."""

    def __init__(self, published: Published, open_file: OpenFile, validator: Hotkey, network_id: Digest) -> None:
        self._published = published
        self._validator = validator
        self.network_id = network_id
        self._open = open_file
        self._remembered: dict[Window, Remembered | None] = {}
        self._others: dict[tuple[Hotkey, Window], Remembered | None] = {}
        self._counted: dict[tuple[Hotkey, Window], Counted] = {}

    def history(self, before: Window) -> tuple[dict[Hotkey, list[MinerWindow]], list[str]]:
        """Every hotkey's audits in the 72 windows before, and what of them rests on nothing that was published."""
        oldest = Window(max(0, before - SCORE_MEMORY_WINDOWS * WINDOW_LENGTH))
        windows = [Window(w) for w in range(oldest, before + WINDOW_LENGTH, WINDOW_LENGTH)]
        own = {window: self._own(window) for window in windows}
        leaders: dict[Window, Hotkey] = {}
        for one in own.values():
            if one is not None and one.adopted is not None:
                leader, first, last = one.adopted
                leaders |= {window: leader for window in windows if first <= window <= last}
        found: dict[Hotkey, list[MinerWindow]] = {}
        missing: list[str] = []
        begun = False
        for window in windows[:-1]:
            one = own[window]
            begun = begun or one is not None
            if (one is None or not one.miners) and window in leaders:
                one = self._adopted(leaders[window], window)
            elif one is None and begun:
                missing.append(f"this validator has published no verdict of window {window}: nothing is remembered of it")
            if one is None and window in leaders:
                missing.append(f"window {window} was adopted from {leaders[window].hex()}, whose verdict of it is not there")
            for hotkey, told in ({} if one is None else one.miners).items():
                found.setdefault(hotkey, []).append(told)
        return found, missing

    def counted(self, hotkey: Hotkey, before: Window) -> Counted:
        """Rollouts of this hotkey that counted in the 12 windows before."""
        identities: set[Digest] = set()
        missing = ""
        for w in range(max(0, before - UNIQUE_HISTORY_WINDOWS * WINDOW_LENGTH), before, WINDOW_LENGTH):
            one = self._counted_in(hotkey, Window(w))
            identities |= one.identities
            missing = missing or one.missing
        return Counted(frozenset(identities), missing)

    def forget(self, before: Window) -> None:
        """What no window from `before` on is likely to ask for again."""
        oldest = before - _IDENTITIES_KEPT * WINDOW_LENGTH
        self._counted = {key: one for key, one in self._counted.items() if key[1] >= oldest}
        oldest = before - (SCORE_MEMORY_WINDOWS + UNIQUE_HISTORY_WINDOWS) * WINDOW_LENGTH
        self._remembered = {window: one for window, one in self._remembered.items() if window >= oldest}
        self._others = {key: one for key, one in self._others.items() if key[1] >= oldest}

    def _counted_in(self, hotkey: Hotkey, window: Window) -> Counted:
        key = (hotkey, window)
        if key not in self._counted:
            self._counted[key] = self._count(hotkey, window)
        return self._counted[key]

    def _count(self, hotkey: Hotkey, window: Window) -> Counted:
        own = self._own(window)
        digest = None if own is None else own.accepted.get(hotkey)
        if own is None or digest is None:
            return Counted(frozenset())
        data = self._published.file(window, hotkey, digest)
        if data is None:
            return Counted(frozenset(), f"its file of window {window} is nowhere any more")
        try:
            submission = bind_rows(self._open(data, None), digest, self.network_id)
        except WindowFileError as error:
            return Counted(frozenset(), f"its file of window {window}: {error.what}")
        if not isinstance(submission, Submission):
            return Counted(frozenset(), f"its file of window {window}: {submission[0].detail}")
        distinct = frozenset(distinct_rollouts(submission, frozenset()))
        stated = own.miners[hotkey].unique_valid
        if len(distinct) == stated:
            return Counted(distinct)
        earlier = self.counted(hotkey, window)
        counted = distinct - earlier.identities
        if len(counted) != stated:
            missing = f"{stated} of its rollouts counted in window {window}, and which is not known"
            return Counted(counted, earlier.missing or missing)
        return Counted(counted)

    def _own(self, window: Window) -> Remembered | None:
        if window not in self._remembered:
            verdict = verdict_of(self._published.verdicts.read(window), window)
            self._remembered[window] = _remember(verdict, self._validator, self.network_id)
        return self._remembered[window]

    def _adopted(self, leader: Hotkey, window: Window) -> Remembered | None:
        """The leader's scored verdict of a window, from whichever bucket has it."""
        if (leader, window) not in self._others:
            self._others[leader, window] = self._search(leader, window)
        return self._others[leader, window]

    def _search(self, leader: Hotkey, window: Window) -> Remembered | None:
        for store in self._published.beside:
            try:
                found = _remember(verdict_of(BucketVerdicts(store).read(window), window), leader, self.network_id)
            except StorageError:
                continue  # another bucket may have it; who gets none says so
            if found is not None and found.scored:
                return found
        return None


def verdict_of(raw: bytes | None, window: Window) -> SignedVerdict | VerdictFault | None:
    """What lies under a verdict's key: signed by somebody for this window, or why not; None where nothing lies there."""
    if raw is None:
        return None
    try:
        verdict = SignedVerdict.decode(raw)
    except ValueError as error:
        return VerdictFault(f"not a verdict: {error}")
    if verdict.body.window != window:
        return VerdictFault(f"the verdict is of window {verdict.body.window}: it was copied to another key")
    if not verdict.verify(verdict.body.network_id):
        return VerdictFault("the signature is not its validator's over this verdict")
    return verdict


def _remember(verdict: SignedVerdict | VerdictFault | None, validator: Hotkey, network_id: Digest) -> Remembered | None:
    if not isinstance(verdict, SignedVerdict) or (verdict.validator, verdict.body.network_id) != (validator, network_id):
        return None
    body, told = verdict.body, verdict.adopted
    return Remembered(
        adopted=None if told is None else (told.validator, told.first, told.last),
        scored=body.status is WindowStatus.SCORED,
        miners={miner.hotkey: miner.miner_window(body.window) for miner in body.miners},
        accepted={
            miner.hotkey: miner.content_digest
            for miner in body.miners
            if miner.status is MinerStatus.ACCEPTED and miner.content_digest is not None
        },
    )
