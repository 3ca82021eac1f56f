"""A network as somebody sees it who takes no part: chain, anybody's bucket, and what validators have published there.

Every bucket is a stranger's: a read is bounded in size by the protocol and in time here, and what fails is told and costs what
it alone would have said. Nothing is written but this machine's cache of checkpoints.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

from grail_core.chain.base import Chain, Metagraph, Neuron
from grail_core.commands.hotkeys import chosen
from grail_core.errors import ConfigurationError, GrailError, ProtocolViolationError, StorageError
from grail_core.files.verdicts import AnyVerdict, OtherNetworkVerdictError, RefusedVerdictError, read_any_verdict
from grail_core.participant.settings import Settings
from grail_core.protocol import window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.base import ObjectStore, StoreDirectory
from grail_core.storage.layout import verdict_key
from grail_core.storage.time_limits import at_most
from grail_core.telemetry.progress import while_waiting

if TYPE_CHECKING:
    from grail_core.checkpoints.source import CheckpointSource

READ_SECONDS: Final = 20.0
"""That one bucket gets to answer about one window."""
MAX_VALIDATORS: Final = 64
"""Whose buckets are read: those with the most stake. A subnet has no more with a permit."""
AT_ONCE: Final = 8
"""Buckets that are read side by side, so that one that hangs does not hold up all others."""
MAX_WINDOWS_BACK: Final = 40
"""In which the newest verdict is looked for."""
NEWEST_SECONDS: Final = 25.0
"""That all buckets together get to show where their newest verdicts are."""
BEHIND_WINDOWS: Final = 2
"""A second validator that is further behind the first is not judging now, and is not asked to agree on what is the newest."""
ELSEWHERE: Final = "every verdict that was read is signed for another network than GRAIL_NETWORK names here"
ELSEWHERE_HINT: Final = "set GRAIL_NETWORK to the network file of the subnet that is read; `grail network` shows what is set"

T = TypeVar("T")


@dataclass(frozen=True)
class NetworkView:
    """One network, to read. `metagraph` is that of one moment."""

    settings: Settings
    params: NetworkParameters
    chain: Chain
    directory: StoreDirectory
    _reading: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))  # verdicts in memory

    @cached_property
    def network_id(self) -> Digest:
        return self.params.network_id(self.chain.genesis_hash)

    @cached_property
    def metagraph(self) -> Metagraph:
        """As of the finalised block. Raises ChainError."""
        return self.chain.metagraph()

    @cached_property
    def block(self) -> Block:
        """The newest one. Raises ChainError."""
        return self.chain.current_block()

    @property
    def window(self) -> Window:
        """The one that is worked on now."""
        return window_of(self.block)

    @cached_property
    def checkpoints(self) -> CheckpointSource:
        from grail_core.participant.deployment import open_checkpoints

        return open_checkpoints(self.settings).checkpoints

    def validators(self, of: Metagraph | None = None) -> list[Neuron]:
        """Who is trusted (permit, stake, a bucket), the most stake first. Raises ChainError."""
        trusted = [
            neuron
            for neuron in (self.metagraph if of is None else of).neurons
            if neuron.validator_permit and neuron.stake > 0 and neuron.commitment is not None
        ]
        return sorted(trusted, key=lambda neuron: (-neuron.stake, neuron.hotkey))

    def bucket(self, neuron: Neuron) -> ObjectStore:
        """Raises StorageError."""
        if neuron.commitment is None:
            raise StorageError("this hotkey has committed no bucket", hint="a role commits its own when it starts")
        return self.directory.open(neuron.commitment)

    def has_verdict(self, store: ObjectStore, window: Window) -> bool:
        """Raises StorageError."""
        with at_most(READ_SECONDS):
            return store.head(verdict_key(window)) is not None

    def verdict(self, store: ObjectStore, window: Window, validator: Hotkey) -> AnyVerdict | None:
        """A validator's signed verdict of a window or a round; None where it has published none.

        Raises:
            StorageError: the store does not answer. RefusedVerdictError: what lies there is no verdict of it.
        """
        with at_most(READ_SECONDS):
            return read_any_verdict(store, window, validator, self.network_id)

    def newest_judged(self, validators: Sequence[Neuron]) -> Window:
        """The newest window, or round, of which two of these have published a verdict; one, where no other is that far.

        Raises:
            ProtocolViolationError: none lately, or none of this network.
        """
        until = time.monotonic() + NEWEST_SECONDS
        asked = validators[:MAX_VALIDATORS]
        found = self.each(asked, lambda neuron: self._newest_of(neuron, until), at_once=MAX_VALIDATORS)
        newest = sorted((one for one in found if isinstance(one, int)), reverse=True)
        if newest:
            second = newest[min(1, len(newest) - 1)]
            return second if second >= newest[0] - BEHIND_WINDOWS * WINDOW_LENGTH else newest[0]
        problems = [one for one in found if isinstance(one, GrailError)]
        where = f"windows before {self.window}"
        if problems and all(isinstance(one, OtherNetworkVerdictError) for one in problems):
            raise ProtocolViolationError(ELSEWHERE, where=where, hint=ELSEWHERE_HINT)
        reasons = "; ".join(dict.fromkeys(one.what for one in problems))[:500]
        raise ProtocolViolationError(
            "no validator has published a verdict lately" + (f": {reasons}" if reasons else ""),
            where=where,
            hint="a window is judged some blocks after its end; `grail status` says what is seen of each validator",
        )

    def _newest_of(self, neuron: Neuron, until: float) -> Window | GrailError | None:
        """Its newest window with a verdict that verifies; else what was wrong with the first that did not."""
        problem: GrailError | None = None
        try:
            store = self.bucket(neuron)
            for window in self.ended_windows_back():
                left = until - time.monotonic()
                if left <= 0:
                    return problem or StorageError(f"the bucket has not shown a verdict in {NEWEST_SECONDS:.0f} s")
                try:
                    with at_most(left):
                        if self.has_verdict(store, window) and self._read_one(store, window, neuron):
                            return window
                except RefusedVerdictError as error:
                    problem = problem or error
        except GrailError as error:
            problem = problem or error
        return problem

    def _read_one(self, store: ObjectStore, window: Window, neuron: Neuron) -> bool:
        with self._reading:
            return self.verdict(store, window, neuron.hotkey) is not None

    def each(self, neurons: Sequence[Neuron], read: Callable[[Neuron], T], *, at_once: int = AT_ONCE) -> list[T]:
        """What is read of each, some side by side, in their order. Says on standard error that it waits, where it does."""
        self.network_id, self.metagraph, self.block  # noqa: B018 - asked of the chain once, and not by every thread
        done: list[None] = []

        def one(neuron: Neuron) -> T:
            try:
                return read(neuron)
            finally:
                done.append(None)

        def line() -> str:
            return f"{len(done)} of {len(neurons)} validators' buckets have answered"

        with ThreadPoolExecutor(at_once) as pool, while_waiting(line):
            return list(pool.map(one, neurons))

    def ended_windows_back(self) -> Iterator[Window]:
        """As `windows_back`, without the window that runs: nobody has judged it, whatever lies there."""
        return self.windows_back(Window(self.window - WINDOW_LENGTH))

    def windows_back(self, newest: Window | None = None, most: int = MAX_WINDOWS_BACK) -> Iterator[Window]:
        """From this window (without: the present one) back to the network's first."""
        start = self.window if newest is None else newest
        for number in range(most):
            if start - number * WINDOW_LENGTH < 0:
                return
            yield Window(start - number * WINDOW_LENGTH)


def view_network(settings: Settings) -> NetworkView:
    """The network that the settings name. Raises ConfigurationError, ChainError."""
    from grail_core.participant.deployment import network_parameters, open_chain, open_reader

    params = network_parameters(settings)
    chain = open_chain(settings)
    return NetworkView(settings, params, chain, open_reader(settings, params, chain))


def asked_hotkey(view: NetworkView, text: str | None) -> Hotkey:
    """The one that --hotkey names (`hotkeys.chosen`, among those registered now; a whole one may be registered no more), or
    this machine's own.

    Raises:
        ConfigurationError: there is no wallet here either.
    """
    if text is None:
        from grail_core.participant.deployment import load_signer

        try:
            return load_signer(view.settings).hotkey
        except ConfigurationError as error:
            raise ConfigurationError(
                f"whose standing is asked for? {error.what}", where=error.where, hint="name a hotkey with --hotkey"
            ) from error
    try:
        return chosen(text, [neuron.hotkey for neuron in view.metagraph.neurons], where="this subnet")
    except ProtocolViolationError:
        from grail_core.keys import from_ss58

        if len(text) < 47:
            raise
        return from_ss58(text)


def chosen_validators(view: NetworkView, text: str | None) -> tuple[list[Neuron], int]:
    """Whose verdicts are read: one, or those with the most stake; and how many are left out.

    Raises:
        ProtocolViolationError: there is none. ChainError: the chain does not answer.
    """
    trusted = view.validators()
    if not trusted:
        raise ProtocolViolationError(
            "no validator has a permit, stake and a bucket",
            hint="a validator commits its bucket when it starts; look again in a window or two",
        )
    if text is None:
        return trusted[:MAX_VALIDATORS], max(0, len(trusted) - MAX_VALIDATORS)
    asked = chosen(text, [neuron.hotkey for neuron in trusted], where="the validators of this subnet")
    return [neuron for neuron in trusted if neuron.hotkey == asked], 0
