"""A network as somebody sees it who takes no part: chain, anybody's bucket, and what validators have published there.

Every bucket is a stranger's: a read is bounded in size by the protocol and in time here, and what fails is told and costs what
it alone would have said. Nothing is written but this machine's cache of checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

from grail_core.chain.base import Chain, Metagraph, Neuron
from grail_core.commands.hotkeys import chosen
from grail_core.errors import ChainError, ConfigurationError, ProtocolViolationError, StorageError
from grail_core.files.verdicts import RefusedVerdictError, read_round_verdict, read_verdict
from grail_core.participant.settings import Settings
from grail_core.protocol import SignedVerdict, window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.base import ObjectStore, StoreDirectory
from grail_core.storage.layout import verdict_key
from grail_core.storage.time_limits import at_most

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

AnyVerdict = SignedVerdict | SignedGradientVerdict
T = TypeVar("T")


@dataclass(frozen=True)
class NetworkView:
    """One network, to read. `metagraph` is that of one moment."""

    settings: Settings
    params: NetworkParameters
    chain: Chain
    directory: StoreDirectory

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
            try:
                return read_verdict(store, window, validator, self.network_id)
            except RefusedVerdictError as error:
                try:
                    return read_round_verdict(store, window, validator, self.network_id)
                except RefusedVerdictError:
                    raise error from None

    def newest_judged(self, validators: Sequence[Neuron]) -> Window:
        """The newest window, or round, of which one of these has published a verdict.

        Raises:
            ProtocolViolationError: none lately.
        """
        for window in self.windows_back():
            for neuron in validators[:MAX_VALIDATORS]:
                try:
                    if self.has_verdict(self.bucket(neuron), window):
                        return window
                except StorageError:
                    continue  # another one may have it; who has none is told so below
        raise ProtocolViolationError(
            "no validator has published a verdict lately",
            where=f"windows up to {self.window}",
            hint="a window is judged some blocks after its end; `grail status` says what is seen of each validator",
        )

    def each(self, neurons: Sequence[Neuron], read: Callable[[Neuron], T]) -> list[T]:
        """What is read of each, some side by side, in their order."""
        self.network_id, self.metagraph, self.block  # noqa: B018 - asked of the chain once, and not by every thread
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(read, neurons))

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
        ChainError: there is none.
    """
    trusted = view.validators()
    if not trusted:
        raise ChainError(
            "no validator has a permit, stake and a bucket",
            hint="a validator commits its bucket when it starts; look again in a window or two",
        )
    if text is None:
        return trusted[:MAX_VALIDATORS], max(0, len(trusted) - MAX_VALIDATORS)
    asked = chosen(text, [neuron.hotkey for neuron in trusted], where="the validators of this subnet")
    return [neuron for neuron in trusted if neuron.hotkey == asked], 0
