"""C1, C2, C4, C11, D7: real files of work that a miner was not assigned, before two validators as shipped.

The stage is `family_x_network`'s: a network in this process, with an honest miner in the same window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grail_core.keys import LocalSigner, ss58
from grail_core.storage.layout import seal_key, window_key
from grail_miner.groups import Group
from tooling.adversaries.family_x_network import ABSENT, FAILED, HONEST, LIAR, Stage, outcome_of, staged
from tooling.adversaries.miners import pack_without_rules
from tooling.adversaries.rows import Row
from tooling.testing.small_network import FIRST_WINDOW

UNIT = "windows before two validators"


def _made(stage: Stage, groups: Sequence[int], name: str = LIAR) -> list[Group]:
    mining = stage.network.mining(name)
    context = stage.network.participant(name).open_window(FIRST_WINDOW)
    return mining.produce_groups(context, mining.select_model(context), groups)


def _submitted(stage: Stage, groups: Sequence[Group]) -> tuple[bool, str]:
    """These groups as the liar's file, with the counts that they have, whatever the rules say of them."""
    mining = stage.network.mining(LIAR)
    context = stage.network.participant(LIAR).open_window(FIRST_WINDOW)
    stage.store(LIAR, pack_without_rules(mining, context, mining.select_model(context), groups))
    return outcome_of(stage, {ABSENT, FAILED})


def c1(*, quick: bool = False) -> dict[str, Any]:
    """Group ids that were ground for: far from the front of the list, or another group under the first one's id."""

    def far(stage: Stage) -> tuple[bool, str]:
        return _submitted(stage, _made(stage, [40, 41]))

    def renamed(stage: Stage) -> tuple[bool, str]:
        (made,) = _made(stage, [7])
        return _submitted(stage, [renumbered(made, 0)])

    return staged(Row("C1", UNIT), {"far": far, "renamed": renamed})


def c2(*, quick: bool = False) -> dict[str, Any]:
    """The hard half of the problems left out."""

    def skipped(stage: Stage) -> tuple[bool, str]:
        return _submitted(stage, _made(stage, [0, 2, 4]))

    return staged(Row("C2", UNIT), {"every second group": skipped})


def c4(*, quick: bool = False) -> dict[str, Any]:
    """Another miner's rollouts, read from its bucket and signed anew; the victim is not hurt."""

    def copied(stage: Stage) -> tuple[bool, str]:
        return _submitted(stage, _made(stage, [0], HONEST))

    return staged(Row("C4", UNIT), {"re-signed": copied})


def c11(*, quick: bool = False) -> dict[str, Any]:
    """A hotkey registered once the window's seed is known has no window, whatever it seals."""

    def late(stage: Stage) -> tuple[bool, str]:
        network, signer = stage.network, LocalSigner.from_seed(hashlib.sha256(b"late").digest())
        network.signers["late"] = signer
        network.chain.register(signer)
        network.chain.commit(signer, network.directory("late").commitment())
        network.chain.advance(2)
        stage.store("late", network.mine(network.mining("late"), FIRST_WINDOW, range(1)))
        bodies = stage.judge()
        seen = [body for body in bodies if body.miner(signer.hotkey) is not None]
        return bool(seen), "registered: not among the window's hotkeys"

    return staged(Row("C11", UNIT), {"registered in the window": late})


def d7(*, quick: bool = False) -> dict[str, Any]:
    """Another's seal and file as they are, and one's own of another window."""

    def others(stage: Stage) -> tuple[bool, str]:
        own, honest = (ss58(stage.network.signers[name].hotkey) for name in (LIAR, HONEST))
        store = stage.network.participant(HONEST).own_store
        stage.bucket.put(stage.window_key, store.get(window_key(honest, FIRST_WINDOW), max_bytes=10**7))
        stage.bucket.put(seal_key(own, FIRST_WINDOW), store.get(seal_key(honest, FIRST_WINDOW), max_bytes=10**5))
        return outcome_of(stage, {ABSENT})

    def another_windows(stage: Stage) -> tuple[bool, str]:
        stage.seal_anew(stage.files[LIAR], window=FIRST_WINDOW + 30)
        return outcome_of(stage, {ABSENT})

    return staged(Row("D7", UNIT), {"another hotkey's": others, "another window's": another_windows})


def renumbered(group: Group, number: int) -> Group:
    """The same rollouts under another group id."""
    return Group(number, tuple(replace(record, group=number) for record in group.rollouts))


ATTACKS = {"C1": c1, "C2": c2, "C4": c4, "C11": c11, "D7": d7}
