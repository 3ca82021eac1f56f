"""D3, D8, D15, D16: what is learned from, before the trainer as shipped: real intake, real files, real update, real checkpoint.

Two validators hold all stake. They judged for themselves where the attack comes after the verdict; where it is in groups that
no sample drew, or in a verdict bought from both, they say that they accepted the file. A try is accepted if the training
log names a group that it must not, or if the update is another one than from honest claims. The twins are the honest groups
beside it: in the same file, of another miner, under the same ids.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from grail_core.chain.development.local import LocalChain
from grail_core.files.shared import put_file
from grail_core.generation.base import Completion
from grail_core.protocol import RolloutRecord, SignedVerdict, without_negative_zero
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES
from grail_core.protocol.types import Digest
from grail_core.storage.layout import file_key, verdict_key
from grail_miner.groups import Group
from tooling.adversaries.crowd import Liar
from tooling.adversaries.family_x_quorum import Polls, Staked
from tooling.adversaries.rows import Row, Try
from tooling.testing.learning_network import ENVIRONMENT, LearningNetwork, learning_model, published_log, service
from tooling.testing.small_network import FIRST_WINDOW

LIAR, HONEST = "miner-0", "miner-1"
VALIDATORS = ("validator-0", "validator-1")
GROUPS = range(3)
SPOILT = 1
"""The group that is not what it seems; the others of its file are honest."""
LIMIT = 32
"""Completion tokens: of a poisoned text, sixteen and more. Honest answers end long before."""


@dataclass(frozen=True)
class Learned:
    """What the trainer published of the window. `groups`: (miner, group, digest of its file)."""

    groups: tuple[tuple[str, int, str], ...]
    dropped: tuple[tuple[str, int | None, str], ...]  # (miner, group, the check that rejects or the reason)
    state: str  # digest of masters and moments after the update

    def of(self, miner: str) -> set[int]:
        return {group for name, group, _ in self.groups if name == miner}

    def dropped_by(self, miner: str, group: int | None) -> str:
        return next((why for name, number, why in self.dropped if (name, number) == (miner, group)), "")


@dataclass(frozen=True)
class School:
    """A network whose two miners have made the groups of a window, uploaded nothing yet, and copies of it to try things in."""

    root: Path
    model: Path
    network: LearningNetwork
    made: dict[str, list[Group]]

    def pupil(self, name: str) -> Pupil:
        """A copy of the network as it is now."""
        other = copy.copy(self.network)
        other.root = self.root / name
        shutil.copytree(self.network.root, other.root)
        other.chain = LocalChain.open(other.root / "chain.sqlite")
        return Pupil(other, self.model, self.made)


@dataclass(frozen=True)
class Pupil:
    """One try's network."""

    network: LearningNetwork
    model: Path
    made: dict[str, list[Group]]

    def pack(self, name: str, groups: Sequence[Group]) -> bytes:
        return Liar(self.network, name).pack(groups)

    def judged(self) -> dict[str, bytes]:
        """Both miners' honest files, judged by both validators."""
        files = {name: self.pack(name, self.made[name]) for name in (LIAR, HONEST)}
        for name, data in files.items():
            Liar(self.network, name).seal(data)
        self.network.judge()
        return files

    def claimed(self, files: dict[str, bytes]) -> None:
        """Both validators say that they accepted these."""
        for validator in VALIDATORS:
            self.network.claim(validator, files)

    def learned(self, stake: Mapping[str, int] | None = None) -> Learned:
        """The trainer's window, to its end. `stake`: what validators hold, in rao, where it is not the same."""
        network = self.network
        participant = network.participant("trainer")
        if stake is not None:
            chain: Any = Staked(participant.chain, {network.signers[name].hotkey: held for name, held in stake.items()})
            participant = replace(participant, chain=chain)
        trainer = service(participant, self.model)
        trainer.run(Polls(network, lambda _: None), windows=1)
        if len(trainer.publisher.view().stored) == 1:
            return Learned((), (), "")
        names = {signer.hotkey.hex(): name for name, signer in network.signers.items()}
        log = published_log(trainer.participant)
        groups = tuple((names[one["hotkey"]], one["group"], one["content_digest"]) for one in log["groups"])
        dropped = tuple((names[one["hotkey"]], one["group"], _why(one)) for one in log["dropped"])
        return Learned(groups, dropped, log["state_after"])


def _why(dropped: dict[str, Any]) -> str:
    rejects = [finding["check"] for finding in dropped["findings"] if finding["outcome"] == "reject"]
    return str(rejects[0] if rejects else dropped["reason"])


@contextmanager
def school() -> Iterator[School]:
    root = Path(tempfile.mkdtemp(prefix="grail-attacks-"))
    try:
        model = learning_model(root / "model", LIMIT)
        (root / "network").mkdir()
        network = LearningNetwork(root / "network", environment=ENVIRONMENT, model=model)
        network.advance_to(FIRST_WINDOW + 1)
        made = {name: Liar(network, name).groups(GROUPS) for name in (LIAR, HONEST)}
        yield School(root, model, network, made)
    finally:
        shutil.rmtree(root, ignore_errors=True)


# --- D3: after the verdict --------------------------------------------------------------------------------------------


def d3(*, quick: bool = False) -> dict[str, Any]:
    """Other bytes in the miner's bucket, under the digest in the validators', and another digest in their verdicts."""
    row = Row("D3", "windows before the trainer")
    with school() as there:
        for number, (name, attack) in enumerate(AFTERWARDS.items()):
            pupil = there.pupil(str(number))
            files = pupil.judged()
            attack(pupil, files)
            learned = pupil.learned()
            judged = {miner: hashlib.sha256(data).hexdigest() for miner, data in files.items()}
            other = [one for one in learned.groups if judged[one[0]] != one[2]]
            row.tries.append(Try(name, bool(other), "digest", f"learned from {len(learned.groups)} groups, all as judged"))
            _twin(row, bool(learned.of(HONEST)))
    return row.to_json()


def _in_its_own_bucket(pupil: Pupil, files: dict[str, bytes]) -> None:
    Liar(pupil.network, LIAR).seal(_other(pupil))


def _under_the_digest(pupil: Pupil, files: dict[str, bytes]) -> None:
    for validator in VALIDATORS:
        store = pupil.network.participant(validator).own_store
        store.put(file_key(Digest(hashlib.sha256(files[LIAR]).digest())), _other(pupil))


def _in_one_verdict(pupil: Pupil, files: dict[str, bytes]) -> None:
    """Somebody who can write into a validator's bucket, and has not its key."""
    for validator in VALIDATORS[:1]:
        store = pupil.network.participant(validator).own_store
        data = _other(pupil)
        put_file(store, Digest(hashlib.sha256(data).digest()), data)
        said = SignedVerdict.decode(store.get(verdict_key(FIRST_WINDOW), max_bytes=MAX_VERDICT_BYTES))
        liar = pupil.network.signers[LIAR].hotkey
        digest = Digest(hashlib.sha256(data).digest())
        miners = tuple(replace(one, content_digest=digest) if one.hotkey == liar else one for one in said.body.miners)
        store.put(verdict_key(FIRST_WINDOW), replace(said, body=replace(said.body, miners=miners)).encode())


def _other(pupil: Pupil) -> bytes:
    """Fewer groups of the same miner: as good a file as the judged one, and not it."""
    return pupil.pack(LIAR, pupil.made[LIAR][:2])


AFTERWARDS: dict[str, Callable[[Pupil, dict[str, bytes]], None]] = {
    "in the miner's bucket": _in_its_own_bucket,
    "in the validators' buckets, under the judged digest": _under_the_digest,
    "in a validator's verdict": _in_one_verdict,
}


# --- D8: ids that collide ---------------------------------------------------------------------------------------------


def d8() -> dict[str, Any]:
    """Two miners with the same group ids, one of them a liar in one or in all: each is learned from and dropped by itself."""
    row = Row("D8", "windows before the trainer")
    with school() as there:
        honest = _only(there.pupil("alone"), HONEST)
        for name, spoilt in {"one group of the same id": [SPOILT], "every id": list(GROUPS)}.items():
            pupil = there.pupil(name)
            liars = spoil(pupil, spoilt, junk)
            pupil.claimed({LIAR: pupil.pack(LIAR, liars), HONEST: pupil.pack(HONEST, pupil.made[HONEST])})
            learned = pupil.learned()
            mixed = bool(learned.of(LIAR) & set(spoilt)) or learned.of(HONEST) != honest
            message = f"of the liar {sorted(learned.of(LIAR))}, of the honest {sorted(learned.of(HONEST))}"
            row.tries.append(Try(name, mixed, learned.dropped_by(LIAR, spoilt[0]) or "proof", message))
            _twin(row, bool(learned.of(HONEST)) and not any(miner == HONEST for miner, _, _ in learned.dropped))
        both = there.pupil("both")
        both.claimed({miner: both.pack(miner, both.made[miner]) for miner in (LIAR, HONEST)})
        learned = both.learned()
        _twin(row, all(learned.of(miner) == _only(there.pupil(f"alone-{miner}"), miner) for miner in (LIAR, HONEST)))
    return row.to_json()


def _only(pupil: Pupil, miner: str) -> set[int]:
    """Which of a miner's groups are learned from where nobody else has any."""
    pupil.claimed({miner: pupil.pack(miner, pupil.made[miner])})
    return pupil.learned().of(miner)


# --- D15: claims that nobody challenged -------------------------------------------------------------------------------


def d15() -> dict[str, Any]:
    """Log-probabilities that are not the model's, where no validator looked: what is learned from is learned from, to the bit,
    as if the claims were honest, and what is too far off is not learned from at all."""
    row = Row("D15", "windows before the trainer")
    with school() as there:
        honest: dict[frozenset[int], str] = {}

        def expected(groups: frozenset[int]) -> str:
            """The state after these groups with honest claims; the others of the file are junk, and so are dropped."""
            if groups not in honest:
                pupil = there.pupil(f"honest {sorted(groups)}")
                pupil.claimed({LIAR: pupil.pack(LIAR, spoil(pupil, sorted(set(GROUPS) - groups), junk))})
                learned = pupil.learned()
                _twin(row, learned.of(LIAR) == groups)
                honest[groups] = learned.state
            return honest[groups]

        offered = there.pupil("all")
        offered.claimed({LIAR: offered.pack(LIAR, offered.made[LIAR])})
        everything = frozenset(offered.learned().of(LIAR))
        for name, lie in FALSE_CLAIMS.items():
            pupil = there.pupil(name)

            def lied(record: RolloutRecord, lie: FalseClaim = lie) -> RolloutRecord:
                return replace(record, logprobs=without_negative_zero(lie(record.rollout, record.logprobs)))

            told = [Group(one.group, tuple(map(lied, one.rollouts))) for one in pupil.made[LIAR]]
            pupil.claimed({LIAR: pupil.pack(LIAR, told)})
            learned = pupil.learned()
            kept = frozenset(learned.of(LIAR))
            used = bool(kept) and learned.state != expected(kept)
            caught = "measured anew" if kept == everything else "logprob"
            message = f"of {len(everything)} groups {len(kept)} learned from, by the update that honest claims give"
            row.tries.append(Try(name, used, caught, message if kept else "not learned from"))
    return row.to_json()


FalseClaim = Callable[[int, Any], Any]
"""The claims of a rollout in place of its honest ones: (r, float32 [completion]) → float32 [completion]."""


def _at(place: int, nats: float) -> FalseClaim:
    """One position of every rollout, counted from its end where negative."""

    def claim(_: int, values: Any) -> Any:
        claimed = np.array(values)
        claimed[max(place, -len(claimed)) if place < 0 else min(place, len(claimed) - 1)] -= np.float32(nats)
        return claimed

    return claim


FALSE_CLAIMS: dict[str, FalseClaim] = {
    "0.02 nats less": lambda _, values: values - np.float32(0.02),
    "zeros": lambda _, values: np.zeros_like(values),
    "four nats less": lambda _, values: values - np.float32(4),
    "four nats less at the first position": _at(0, 4.0),
    "a tenth of a nat less at the last position": _at(-1, 0.1),
    "zeros in one rollout of sixteen": lambda rollout, values: np.zeros_like(values) if rollout == 7 else values,
}


# --- D16: poison where nobody looked ----------------------------------------------------------------------------------


def d16() -> dict[str, Any]:
    """A text that the policy would not write, in one rollout or in all of a group that the validators' sample did not draw."""
    row = Row("D16", "windows before the trainer")
    with school() as there:
        for name, poison in POISONS.items():
            pupil = there.pupil(name)
            pupil.claimed({LIAR: pupil.pack(LIAR, spoil(pupil, [SPOILT], poison))})
            learned = pupil.learned()
            why = learned.dropped_by(LIAR, SPOILT)
            through = SPOILT in learned.of(LIAR)
            check = why.partition(":")[0]
            row.tries.append(
                Try(name, through, check, f"group {SPOILT}: {why or ('learned from' if through else 'not tried')}")
            )
            _twin(row, bool(learned.of(LIAR) - {SPOILT}))
    return row.to_json()


def _poisoned(rollouts: Sequence[int], length: int, *, proved: bool = True) -> Callable[[Liar, Group], Group]:
    """A text of so many tokens in place of these answers, with the reward that it earns. `proved`: by the right model."""

    def poison(liar: Liar, group: Group) -> Group:
        prompt = group.rollouts[0].prompt.tolist()
        end = liar.context.manifest.end_token_ids[0]
        words = np.random.default_rng(length).permutation(liar.loaded.model.vocabulary_size)
        text = (*[int(word) for word in words if word != end][: length - 1], end)
        answers = [text if record.rollout in rollouts else tuple(record.completion.tolist()) for record in group.rollouts]
        return _proved(liar, group, prompt, answers) if proved else _guessed(liar, group, prompt, answers)

    return poison


def _proved(liar: Liar, group: Group, prompt: list[int], answers: list[tuple[int, ...]]) -> Group:
    proofs = liar.mining.prove(liar.context, liar.loaded, tuple(prompt), [Completion(answer) for answer in answers])
    records = [
        replace(
            record,
            tokens=np.asarray((*prompt, *answer), np.int32),
            logprobs=without_negative_zero(proof.logprobs),
            sketches=proof.sketches,
        )
        for record, answer, proof in zip(group.rollouts, answers, proofs, strict=True)
    ]
    return _graded(liar, group, records)


def _guessed(liar: Liar, group: Group, prompt: list[int], answers: list[tuple[int, ...]]) -> Group:
    records = [
        replace(
            record,
            tokens=np.asarray((*prompt, *answer), np.int32),
            logprobs=np.full(len(answer), -0.5, np.float32),
            sketches=bytes(8 * (len(answer) + 1)),
        )
        for record, answer in zip(group.rollouts, answers, strict=True)
    ]
    return _graded(liar, group, records)


def _graded(liar: Liar, group: Group, records: Sequence[RolloutRecord]) -> Group:
    environment = liar.network.environment
    problem = environment.problem(liar.context.problem_seed(liar.mining.signer.hotkey, group.group))
    told = []
    for record in records:
        grade = liar.mining.grade(environment, liar.loaded, problem, Completion(tuple(record.completion.tolist())))
        told.append(replace(record, reward=grade.reward, success=grade.success))
    return Group(group.group, tuple(told))


def junk(liar: Liar, group: Group) -> Group:
    return Group(group.group, tuple(replace(record, sketches=bytes(len(record.sketches))) for record in group.rollouts))


def spoil(pupil: Pupil, groups: Sequence[int], spoil: Callable[[Liar, Group], Group]) -> list[Group]:
    liar = Liar(pupil.network, LIAR)
    return [spoil(liar, one) if one.group in groups else one for one in pupil.made[LIAR]]


POISONS: dict[str, Callable[[Liar, Group], Group]] = {
    "one long rollout": _poisoned([7], LIMIT),
    "half of them": _poisoned(range(8), LIMIT),
    "one rollout of 15 tokens": _poisoned([7], 15),
    "one rollout of 6 tokens": _poisoned([7], 6),
    "one rollout of 3 tokens": _poisoned([7], 3),
    "one long rollout, proof made up": _poisoned([7], LIMIT, proved=False),
    "one rollout of 6 tokens, proof made up": _poisoned([7], 6, proved=False),
}
"""In groups of sixteen, the others honest, proved by the right model where nothing else is said."""


def _twin(row: Row, learned: bool) -> None:
    row.honest_tries += 1
    row.honest_false_rejects += not learned


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"D3": d3, "D8": d8, "D15": d15, "D16": d16}
