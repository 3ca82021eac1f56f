"""A chain that takes a new read key and does not answer: the term of the old one is known all the same, at once or when it is
done again."""

from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.base import Neuron
from grail_core.chain.development.local import LocalChain
from grail_core.commands.rotate_key import _lines
from grail_core.errors import ChainError
from grail_core.keys import LocalSigner
from grail_core.participant.read_key import rotate
from grail_core.participant.settings import Settings
from grail_core.protocol.network import LOCALNET
from tooling.testing.bucket_owners import Owner, participant, registered_owners, rotated, virtual_chain
from tooling.testing.faults import faulty
from tooling.testing.s3_server import S3Server


@pytest.fixture
def chain(tmp_path: Path) -> LocalChain:
    return virtual_chain(tmp_path)


@pytest.fixture
def owners(s3: S3Server, chain: LocalChain) -> tuple[Owner, Owner]:
    return registered_owners(s3, chain)


def dying(chain: LocalChain, *, answers: bool) -> Any:
    """The chain takes a commitment, answers or not, and can be asked nothing any more."""
    gone, dead = ChainError("the chain cannot be reached"), threading.Event()
    methods = ("current_block", "finalised_block", "block", "metagraph")
    found = faulty(chain, **dict.fromkeys(methods, lambda call: gone if dead.is_set() else None))

    def commit(signer: LocalSigner, text: str) -> None:
        chain.commit(signer, text)
        dead.set()
        if not answers:
            raise gone

    found.commit = commit
    return found


def neuron_of(one: Owner, chain: LocalChain) -> Neuron:
    neuron = chain.metagraph().by_hotkey(one.signer.hotkey)
    assert neuron is not None
    return neuron


def test_a_chain_that_dies_after_it_took_the_new_key_costs_nobody_the_term(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner]
) -> None:
    adam, _ = owners
    old, new = adam.key(1), adam.key(2)
    params = dataclasses.replace(LOCALNET, store_hosts=(s3.url,))
    with s3.enforcing():
        chain.commit(adam.signer, adam.directory(old).commitment())
        chain.advance(40)
        found = rotate(dying(chain, answers=True), adam.directory(new), params, adam.signer, neuron_of(adam, chain))
        assert found.committed
        assert found.term is not None
        chain.advance(3)
        again = rotated(adam, chain, new)
        told = "\n".join(_lines(again))
        assert "names this read key already" in told
        assert (again.committed, again.old_reads, again.over) == (False, True, False)
        assert again.term is not None
        assert again.term.until_block <= found.term.until_block  # what was said when nobody knew errs to the later
        assert f"keep the old key until block {again.term.until_block}," in told
        s3.revoke(old)
        assert rotated(adam, chain, new).old_reads is False
        chain.advance(again.term.until_block - chain.current_block())
        after = rotated(adam, chain, new)
        assert (after.over, after.old_reads) == (True, None)
        assert "may be revoked" in _lines(after)[-1]
        assert after.term is not None
        assert after.term.until_block == again.term.until_block


def test_an_answer_that_is_lost_is_no_refusal_and_the_error_says_what_to_keep(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner]
) -> None:
    adam, bert = owners
    params = dataclasses.replace(LOCALNET, store_hosts=(s3.url,))
    old, new = ([one.key(number) for one in owners] for number in (1, 2))
    with s3.enforcing():
        for one, key in zip(owners, old, strict=True):
            chain.commit(one.signer, one.directory(key).commitment())
        chain.advance(40)
        with pytest.raises(ChainError) as caught:
            rotate(dying(chain, answers=False), adam.directory(new[0]), params, adam.signer, neuron_of(adam, chain))
        again = rotated(adam, chain, new[0])
        assert again.term is not None
        (said,) = re.findall(r"keep both read keys until block (\d+)", caught.value.hint)
        assert int(said) >= again.term.until_block
        loses = faulty(chain)
        loses.commit = lambda signer, text: loses_the_answer(chain, signer, text)
        found = rotate(loses, bert.directory(new[1]), params, bert.signer, neuron_of(bert, chain))
        assert found.committed  # the chain says so when it is asked
        assert found.term is not None


def loses_the_answer(chain: LocalChain, signer: LocalSigner, text: str) -> None:
    chain.commit(signer, text)
    chain.advance(10)  # the block is final
    raise ChainError("the commitment is refused: CommitmentSetRateLimitExceeded")


def test_a_role_whose_start_the_chain_ended_says_at_the_next_one_until_when_the_old_key_has_to_live(
    s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adam, _ = owners
    old, new = adam.key(1), adam.key(2)
    caplog.set_level("INFO")
    with s3.enforcing():
        chain.commit(adam.signer, adam.directory(old).commitment())
        chain.advance(40)
        role = participant(adam.directory(new), chain, adam.signer, tmp_path, s3.url)
        with pytest.raises(ChainError, match="cannot be reached"):
            dataclasses.replace(role, chain=dying(chain, answers=False)).join(Settings())
        chain.advance(5)
        role.join(Settings())
        (event,) = [vars(one) for one in caplog.records if one.getMessage() == "bucket_changed_lately"]
        term = event["grail_event_fields"]
        caplog.clear()
        chain.advance(term["old_until_block"] - chain.current_block())
        role.join(Settings())
        assert caplog.records == []
