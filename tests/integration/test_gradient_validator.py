"""What strangers seal, reveal and open, however it is made, costs them their round and nobody else anything.

A round of three honest miners is trained once; every test plays it on in a copy of its network.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grail_core.proof.inner import InnerState, Trained
from grail_core.proof.trained_model import I32
from grail_core.protocol.findings import Outcome
from grail_core.protocol.gradient.scores import failure_rounds
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.gradient.spec import GRADIENT
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.types import Digest, Window
from grail_core.protocol.verdicts import MinerStatus
from grail_miner.gradient.training import Training
from grail_trainer.gradient_presets import TINY
from grail_validator.round_cases import SightOf
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_round import GradientRound
from tooling.testing.network import FIRST_WINDOW

HONEST = ("miner-0", "miner-1", "miner-2")
STRANGERS = tuple(f"miner-{number}" for number in range(5, 22))


class Overflowing(Training):
    """Trains honestly, and invents what it passed through on the way: weights no forward pass survives."""

    def train(self, context, model, batches: list[I32]) -> Trained:  # type: ignore[no-untyped-def,override]
        done = super().train(context, model, batches)
        huge = {name: np.full_like(value, 3e38) for name, value in done.end.theta.items()}
        last = max(done.states)
        states = {j: one if j in (0, last) else InnerState(huge, one.first, one.second) for j, one in done.states.items()}
        return replace(done, states=states)


class Idle(Training):
    """Moves nothing: an update whose every norm is zero."""

    def train(self, context, model, batches: list[I32]) -> Trained:  # type: ignore[no-untyped-def,override]
        done = super().train(context, model, batches)
        zeros = {name: np.zeros_like(value) for name, value in model.theta.items()}
        still = InnerState(dict(model.theta), zeros, zeros)
        return replace(done, states=dict.fromkeys(done.states, still), delta=zeros)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> GradientRound:
    network = GradientNetwork(tmp_path_factory.mktemp("round") / "network", TINY, miners=22, validators=2)
    factories = {"miner-3": Overflowing, "miner-4": Idle}
    return GradientRound.trained(network, FIRST_WINDOW, (*HONEST, *factories), batches={"miner-2": 8}, factories=factories)


@pytest.fixture
def played(trained: GradientRound, tmp_path: Path) -> GradientRound:
    return trained.over(trained.network.copied(tmp_path / "network"))


@pytest.fixture(scope="module")
def undisturbed(trained: GradientRound, tmp_path_factory: pytest.TempPathFactory) -> GradientVerdictBody:
    """The verdict where nobody but the honest took part."""
    one = trained.over(trained.network.copied(tmp_path_factory.mktemp("undisturbed") / "network"))
    one.play(*HONEST)
    one.merge()
    return one.judge()


def said(one: GradientRound, body: GradientVerdictBody, name: str) -> tuple[object, ...]:
    """Of a miner: everything that it is paid for."""
    row, standing = one.row(body, name), body.standings[one.row(body, name).uid]
    return row.status, row.score, row.rating_after, row.valid, row.findings, standing


def seal_of(one: GradientRound, name: str, data: bytes, **changes: object) -> GradientSeal:
    """A stranger's own signed promise of these bytes."""
    header = replace(GradientSeal.decode(one.pending["miner-0"].seal).header, hotkey=one.hotkey(name))
    size = changes.pop("size", len(data))
    header = replace(header, **changes)  # type: ignore[arg-type]
    digest = Digest(hashlib.sha256(data).digest())
    message = GradientSeal.message(one.context.network_id, GRADIENT, header, digest, size)  # type: ignore[arg-type]
    return GradientSeal(GRADIENT, header, digest, size, one.network.signers[name].sign(message))  # type: ignore[arg-type]


def unsigned(seal: GradientSeal, **changes: object) -> bytes:
    value = json.loads(seal.encode())
    value["header"].update(changes)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def hostile_seals(one: GradientRound) -> dict[str, tuple[Callable[[str], bytes], str]]:
    """What is stored in a seal's place, and what the verdict says of it."""
    data = b"an update"

    def good(name: str) -> GradientSeal:
        return seal_of(one, name, data)

    declared = good("miner-5").header.declared
    return {
        "ten megabytes": (lambda _: bytes(10_000_000), "it has more than 1024 bytes"),
        "nothing": (lambda _: b"", "seal 0: not a seal"),
        "nested": (lambda _: b"[" * 1024, "not a seal"),
        "no UTF-8": (lambda _: b"\xff" * 64, "not a seal"),
        "not canonical": (lambda name: good(name).encode().replace(b'":', b'": ', 1), "not a seal"),
        "twice a member": (lambda name: good(name).encode().replace(b"{", b'{"size":1,', 1), "not a seal"),
        "size near 2**32": (lambda name: seal_of(one, name, data, size=2**32 - 1).encode(), "larger than any update"),
        "size beyond JSON": (lambda name: good(name).encode().replace(b'"size":9', b'"size":18446744073709551615'), "size"),
        "size below zero": (lambda name: good(name).encode().replace(b'"size":9', b'"size":-1'), "size"),
        "declared near 2**32": (lambda name: unsigned(good(name), declared=2**32 - 1), "declared"),
        "declared of no batch": (lambda name: seal_of(one, name, data, declared=declared + 1).encode(), "are allowed"),
        "another round": (lambda name: seal_of(one, name, data, window=Window(60)).encode(), "wrong round"),
        "another block": (lambda name: seal_of(one, name, data, block_hash=bytes(32)).encode(), "wrong block hash"),
        "another hotkey": (lambda _: one.pending["miner-0"].seal, "wrong hotkey"),
        "another version": (lambda name: unsigned(good(name), version=2), "version"),
        "a class nobody admits": (lambda name: seal_of(one, name, data, proof_class="x/y").encode(), "not admitted"),
        "signed by nobody": (lambda name: unsigned(good(name), declared=declared * 2), "the signature is not"),
    }


def test_whatever_lies_where_a_seal_is_looked_for_is_absence_with_its_reason(
    played: GradientRound, undisturbed: GradientVerdictBody
) -> None:
    cases = hostile_seals(played)
    assert len(cases) <= len(STRANGERS)
    names = dict(zip(cases, STRANGERS, strict=False))
    for case, name in names.items():
        played.store(name, "seal", cases[case][0](name))
        played.store(name, "update", b"an update")  # which nobody fetches
    played.play(*HONEST)
    played.merge()
    body = played.judge()
    for case, name in names.items():
        row = played.row(body, name)
        assert row.status is MinerStatus.ABSENT, case
        assert cases[case][1] in row.reason, (case, row.reason)
        assert not body.powers[row.uid]
        assert not body.standings[row.uid].failing(Window(60))
    assert [said(played, body, name) for name in HONEST] == [said(played, undisturbed, name) for name in HONEST]
    sightings = played.validator().ledger.rounds.sightings(FIRST_WINDOW, SightOf.UPDATE)
    assert {one.hotkey for one in sightings} == {played.hotkey(name) for name in HONEST}, "a file without a seal was fetched"


def hostile_files(one: GradientRound) -> dict[str, tuple[bytes, str]]:
    """An update's bytes as they were sealed, and where the verdict says that they are none."""
    real = one.pending["miner-0"].update
    length = struct.unpack("<I", real[8:12])[0]
    header, rest = real[12 : 12 + length], real[12 + length :]

    def headed(raw: bytes) -> bytes:
        return real[:8] + struct.pack("<I", len(raw)) + raw + rest

    value = json.loads(header)
    return {
        "one byte": (b"\0", "$update"),
        "another magic": (b"GRAILUP9" + real[8:], "$update"),
        "a header of 2**32 - 1": (real[:8] + b"\xff" * 4 + real[12:], "$update.header"),
        "a header cut short": (real[: 12 + length // 2], "$update: the file ends"),
        "a header beyond 16 KiB": (headed(b" " * 17_000), "$update.header"),
        "nested": (headed(b"[" * 16_000), "$"),
        "not canonical": (headed(json.dumps(value).encode()), "$"),
        "no number": (headed(header.replace(b'"batch":4', b'"batch":NaN')), "$"),
        "a batch near 2**32": (headed(header.replace(b'"batch":4', b'"batch":4294967295')), "batch"),
        "another miner's whole file": (real, "wrong UID"),
    }


def test_whatever_bytes_were_sealed_fail_their_round_with_a_path_and_touch_nobody(
    played: GradientRound, undisturbed: GradientVerdictBody
) -> None:
    cases = hostile_files(played)
    names = dict(zip(cases, STRANGERS, strict=False))
    for case, name in names.items():
        data = cases[case][0]
        played.store(name, "seal", seal_of(played, name, data).encode())
        played.store(name, "update", data)
    played.store("miner-20", "seal", seal_of(played, "miner-20", b"x").encode())  # and a file longer than sealed
    played.store("miner-20", "update", bytes(4_000_000))
    played.store("miner-21", "seal", seal_of(played, "miner-21", b"x").encode())  # and none at all
    played.play(*HONEST)
    played.merge()
    body = played.judge()
    for case, name in names.items():
        row = played.row(body, name)
        assert row.status is MinerStatus.FAILED, case
        assert cases[case][1] in row.reason, (case, row.reason)
    for name, reason in (("miner-20", "it has more than"), ("miner-21", "not in its bucket")):
        row = played.row(body, name)
        assert (row.status, row.failed_by_replay) == (MinerStatus.FAILED, True)
        assert reason in row.reason
    assert [said(played, body, name) for name in HONEST] == [said(played, undisturbed, name) for name in HONEST]


def hostile_openings(raw: bytes, other: bytes) -> dict[str, bytes]:
    """An opening's bytes, and another hotkey's of the same round."""
    length = struct.unpack("<I", raw[8:12])[0]
    body = 12 + length
    return {
        "nothing": b"",
        "another's": other,
        "cut short": raw[:-1],
        "a path of the wrong length": raw[: body + 4000] + raw[body + 4032 :],
        "no numbers": raw[:body] + struct.pack("<f", float("nan")) * ((len(raw) - body) // 4),
    }


def test_an_opening_that_does_not_show_what_was_committed_fails_before_a_model_runs(
    played: GradientRound, undisturbed: GradientVerdictBody, tmp_path: Path
) -> None:
    played.seal(*HONEST)
    played.see_seals("validator-0")
    played.reveal(*HONEST)
    played.open(*HONEST)
    real, other = (played.stored(name, "opening") for name in ("miner-0", "miner-1"))
    assert real is not None
    assert other is not None
    for case, raw in hostile_openings(real, other).items():
        one = played.over(played.network.copied(tmp_path / hashlib.sha256(case.encode()).hexdigest()[:8]))
        one.store("miner-0", "opening", raw)
        one.see_files("validator-0")
        body = one.judge()
        row = one.row(body, "miner-0")
        assert (row.status, row.failed_by_replay) == (MinerStatus.FAILED, True), case
        assert row.reason.startswith("chunks: $opening"), (case, row.reason)
        assert {finding.check for finding in row.findings} == {"chunks"}, case
        assert one.row(body, "miner-1").status is MinerStatus.ACCEPTED
        standing, before = body.standings[row.uid], undisturbed.standings[row.uid]
        assert standing.feedback == before.feedback, "its file came in time: the next one begins with what it left"
        assert standing.unpaid_until == FIRST_WINDOW + 30 * failure_rounds(TINY, by_replay=True)


def test_states_that_overflow_the_forward_pass_are_a_rejected_replay_and_no_fault_of_the_validator(
    played: GradientRound,
) -> None:
    played.play("miner-0", "miner-3")
    body = played.judge()
    row = played.row(body, "miner-3")
    assert (row.status, row.failed_by_replay) == (MinerStatus.FAILED, True)
    assert any(one.check == "replay" and one.outcome is Outcome.REJECT for one in row.findings)
    assert played.row(body, "miner-0").status is MinerStatus.ACCEPTED


def test_an_update_of_zeros_is_merged_as_nothing_and_fails_its_replay(played: GradientRound) -> None:
    played.play("miner-0", "miner-1", "miner-4")
    manifest = played.merge()
    assert manifest is not None
    body = played.judge()
    row = played.row(body, "miner-4")
    assert (row.status, row.failed_by_replay) == (MinerStatus.FAILED, True)
    assert body.merge is not None
    assert body.merge.ineligible == (row.uid,)
    assert [played.row(body, name).status for name in ("miner-0", "miner-1")] == [MinerStatus.ACCEPTED] * 2


def test_zeros_alone_make_a_checkpoint_of_the_same_weights(played: GradientRound) -> None:
    played.play("miner-4")
    manifest = played.merge()
    assert manifest is not None
    assert manifest.weights_root == played.context.manifest.weights_root


def test_what_comes_one_moment_after_it_was_due_is_late_and_what_comes_after_the_deadline_is_absent(
    played: GradientRound,
) -> None:
    played.seal("miner-0", "miner-1")
    played.network.advance_to(played.context.times.deadline_block)
    played.network.chain.advance_ms(1)
    played.store("miner-2", "seal", played.pending["miner-2"].seal)
    played.see_seals()
    played.reveal("miner-0", "miner-2")
    played.open("miner-0", "miner-1", "miner-2")
    played.network.advance_to(played.context.times.reveal_block)
    played.network.chain.advance_ms(1)
    played.store("miner-1", "update", played.pending["miner-1"].update)
    played.see_files()
    body = played.judge()
    assert [played.row(body, name).status for name in HONEST] == [
        MinerStatus.ACCEPTED,
        MinerStatus.FAILED,
        MinerStatus.ABSENT,
    ]
    late = played.row(body, "miner-1")
    assert late.failed_by_replay, "the coin fell before it was shown: not showing it must not be cheaper"
    assert "after it was due" in late.reason
    assert body.standings[late.uid].feedback == bytes(32), "a late file leaves no feedback to begin with"


def test_a_seal_that_is_taken_back_or_replaced_after_its_sight_still_binds(
    played: GradientRound, undisturbed: GradientVerdictBody
) -> None:
    played.seal(*HONEST)
    played.see_seals()
    played.remove("miner-0", "seal")
    played.store("miner-1", "seal", seal_of(played, "miner-1", b"other bytes").encode())
    played.reveal(*HONEST)
    played.open(*HONEST)
    played.see_files()
    body = played.judge()
    for name in HONEST:
        row, same = played.row(body, name), played.row(undisturbed, name)
        assert (row.status, row.seal_digest, row.score) == (same.status, same.seal_digest, same.score)


def test_files_that_move_nothing_have_no_say_in_what_the_others_are_clipped_to(played: GradientRound) -> None:
    """One of two has the lower median's norm: the other's update would be scored as nothing, and its work be worth nothing."""
    played.play("miner-0", "miner-4")
    played.merge()
    body = played.judge()
    honest, idle = played.row(body, "miner-0"), played.row(body, "miner-4")
    assert (honest.status, idle.status) == (MinerStatus.ACCEPTED, MinerStatus.FAILED)
    assert honest.valid == honest.declared
    assert body.powers[honest.uid] > 0
