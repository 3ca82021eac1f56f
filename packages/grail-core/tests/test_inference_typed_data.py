"""An order has one digest, the wallet library's; and its owner alone can sign it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from eth_account import Account
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.inference.keccak import keccak256, plain_keccak256
from grail_core.inference.orders import Draw, Order, Subscription, Terms
from grail_core.inference.signatures import account_of, command_message, is_address, is_signed_by
from grail_core.inference.typed_data import Domain, direct_domain, order_digest
from grail_core.protocol.types import Hotkey
from tooling.testing.keys import ALICE, BOB
from tooling.testing.plain_receipts import ordered_receipt
from tooling.testing.wallets import ACCOUNT, SECRET, wallet_digest, wallet_signature

NETWORK = bytes([9]) * 32
ORDER = dataclasses.replace(ordered_receipt().order, signature=None)
DOMAIN = direct_domain(NETWORK, ALICE.hotkey)
DIGEST = order_digest(DOMAIN, ORDER)
GROUP_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

bytes32 = st.binary(min_size=32, max_size=32)


def uint(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1) | st.sampled_from([0, 2**bits - 1])


orders = st.builds(
    Order,
    subscription=st.builds(
        Subscription,
        owner=bytes32,
        container_id=bytes32,
        features=st.binary(max_size=300),
        frequency=uint(256),
        period=uint(32),
        redundancy=uint(16),
        active_at=uint(32),
        max_gas_price=uint(64),
        max_gas_limit=uint(32),
        terms=st.builds(
            Terms,
            agreement=uint(16),
            draw=st.sampled_from(Draw),
            choices=uint(8),
            answer_seconds=uint(32),
            policy_digest=bytes32,
            features_digest=bytes32,
            node=bytes32,
            hidden=st.booleans(),
        ),
    ),
    nonce=uint(32),
    expiry=uint(32),
    signature=st.none(),
)
domains = st.builds(Domain, uint(256), st.binary(min_size=20, max_size=20))


@pytest.mark.parametrize("length", range(301))
def test_keccak_is_the_wallet_librarys_for_every_short_length(length: int) -> None:
    data = bytes((7 * i + length) % 256 for i in range(length))
    assert plain_keccak256(data) == keccak256(data) == keccak(data)


@given(st.binary(max_size=2_000))
@settings(max_examples=50)
def test_keccak_is_the_wallet_librarys_for_any_bytes(data: bytes) -> None:
    assert plain_keccak256(data) == keccak256(data) == keccak(data)


@given(domains, orders)
@settings(max_examples=60)
def test_an_orders_digest_is_what_a_wallet_signs(domain: Domain, order: Order) -> None:
    assert order_digest(domain, order) == wallet_digest(domain, order)


def test_every_field_of_domain_and_order_is_under_the_digest() -> None:
    sub = ORDER.subscription
    subs = [edited(sub, name) for name in names(sub) if name != "terms"]
    subs += [dataclasses.replace(sub, terms=edited(sub.terms, name)) for name in names(sub.terms)]
    digests = {
        DIGEST,
        order_digest(Domain(2, DOMAIN.verifying_contract), ORDER),
        order_digest(Domain(1, bytes(20)), ORDER),
        order_digest(DOMAIN, edited(ORDER, "nonce")),
        order_digest(DOMAIN, edited(ORDER, "expiry")),
        *map(with_sub, subs),
    }
    assert len(digests) == 1 + 2 + 2 + 9 + 8


def names(value: Subscription | Terms) -> list[str]:
    return [field.name for field in dataclasses.fields(value)]


def edited(value: Any, name: str) -> Any:
    """A copy with one field changed, within its type."""
    old = getattr(value, name)
    new: object = bytes(x ^ 1 for x in old) or b"x" if isinstance(old, bytes) else old ^ 1
    return dataclasses.replace(value, **{name: Draw(int(old) ^ 1) if isinstance(old, Draw) else new})


def with_sub(sub: Subscription) -> bytes:
    return order_digest(DOMAIN, dataclasses.replace(ORDER, subscription=sub))


def test_the_signature_itself_is_under_no_digest() -> None:
    assert order_digest(DOMAIN, dataclasses.replace(ORDER, signature=bytes(65))) == DIGEST


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency", 2**256),
        ("period", 2**32),
        ("redundancy", 2**16),
        ("active_at", -1),
        ("max_gas_price", 2**64),
        ("max_gas_limit", 2**32),
        ("owner", bytes(20)),
        ("container_id", b""),
    ],
)
def test_what_its_type_cannot_hold_has_no_digest(field: str, value: Any) -> None:
    with pytest.raises((OverflowError, ValueError)):
        with_sub(dataclasses.replace(ORDER.subscription, **{field: value}))


@pytest.mark.parametrize("domain", [Domain(1, bytes(19)), Domain(-1, bytes(20)), Domain(2**256, bytes(20))])
def test_a_domain_that_its_types_cannot_hold_has_no_digest(domain: Domain) -> None:
    with pytest.raises((OverflowError, ValueError)):
        order_digest(domain, ORDER)


def test_a_direct_domain_belongs_to_one_node_of_one_network() -> None:
    domains = [direct_domain(NETWORK, ALICE.hotkey), direct_domain(NETWORK, BOB.hotkey), direct_domain(bytes(32), ALICE.hotkey)]
    assert {len(domain.verifying_contract) for domain in domains} == {20}
    assert {domain.chain_id for domain in domains} == {1}, "wallets sign for the chain they are on"
    assert len({domain.verifying_contract for domain in domains}) == 3


# Wallets.

WALLET = wallet_signature(DOMAIN, ORDER)
R, S, V = int.from_bytes(WALLET[:32], "big"), int.from_bytes(WALLET[32:64], "big"), WALLET[64]


def rsv(r: int, s: int, v: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])


def test_a_wallets_signature_is_its_owners_and_nobody_elses() -> None:
    assert is_signed_by(NETWORK, ACCOUNT, DIGEST, WALLET)
    assert not is_signed_by(NETWORK, account_of(bytes(19) + b"\x01"), DIGEST, WALLET)
    assert not is_signed_by(NETWORK, ACCOUNT, bytes(32), WALLET)


@given(st.binary(min_size=32, max_size=32), bytes32)
@settings(max_examples=25)
def test_whoever_signed_is_recovered(secret: bytes, digest: bytes) -> None:
    key = int.from_bytes(secret, "big") % (GROUP_ORDER - 1) + 1
    account = Account.from_key(key.to_bytes(32, "big"))
    signature = bytes(account.unsafe_sign_hash(digest).signature)
    assert is_signed_by(NETWORK, account_of(bytes.fromhex(account.address[2:])), digest, signature)
    assert not is_signed_by(NETWORK, ACCOUNT, digest, signature)


def test_a_high_s_is_refused_though_the_library_recovers_its_signer() -> None:
    twin = rsv(R, GROUP_ORDER - S, 55 - V)
    assert account_of(bytes.fromhex(Account._recover_hash(DIGEST, signature=twin)[2:])) == ACCOUNT
    assert not is_signed_by(NETWORK, ACCOUNT, DIGEST, twin)


@pytest.mark.parametrize("v", [v for v in range(256) if v != V])
def test_v_is_27_or_28_and_the_right_one_of_them(v: int) -> None:
    assert not is_signed_by(NETWORK, ACCOUNT, DIGEST, rsv(R, S, v))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 66, 130])
def test_a_wallets_signature_of_another_length_is_refused(size: int) -> None:
    assert not is_signed_by(NETWORK, ACCOUNT, DIGEST, (WALLET * 2)[:size])


@pytest.mark.parametrize(
    ("r", "s"),
    [(0, S), (R, 0), (GROUP_ORDER, S), (R, GROUP_ORDER), (2**256 - 1, 2**256 - 1), (0, 0), (5, 1), (GROUP_ORDER - 1, 1)],
)
def test_numbers_that_are_no_signature_are_refused(r: int, s: int) -> None:
    assert not is_signed_by(NETWORK, ACCOUNT, DIGEST, rsv(r, s, V))


@given(st.binary(max_size=80), st.binary(max_size=40))
@settings(max_examples=60)
def test_no_signature_and_no_account_raises(signature: bytes, account: bytes) -> None:
    for signed in (signature, signature.ljust(64, b"\1")[:64] + b"\x1b"):
        for owner in (account, ACCOUNT, BOB.hotkey):
            assert not is_signed_by(NETWORK, owner, DIGEST, signed)


# Hotkeys.


def test_a_hotkey_signs_the_digest_under_a_tag_of_its_network() -> None:
    signature = BOB.sign(command_message(NETWORK, DIGEST))
    assert is_signed_by(NETWORK, BOB.hotkey, DIGEST, signature)
    assert not is_signed_by(bytes(32), BOB.hotkey, DIGEST, signature)
    assert not is_signed_by(NETWORK, ALICE.hotkey, DIGEST, signature)
    assert not is_signed_by(NETWORK, BOB.hotkey, DIGEST, BOB.sign(DIGEST)), "the bare digest is what a wallet signs"
    assert not is_signed_by(NETWORK, BOB.hotkey, DIGEST, signature + b"\x1b")


def test_an_account_with_twelve_zero_bytes_in_front_is_an_address_and_no_hotkey() -> None:
    posing = Hotkey(bytes(12) + BOB.hotkey[12:])
    assert is_address(posing)
    assert not is_signed_by(NETWORK, posing, DIGEST, BOB.sign(command_message(NETWORK, DIGEST)))
    assert not is_address(bytes(11) + b"\x01" + bytes(20))


def test_nobody_signs_for_the_account_of_nobody() -> None:
    assert not is_address(bytes(32))
    for signature in (bytes(64), bytes(63) + b"\x80", WALLET, bytes(65)):
        assert not is_signed_by(NETWORK, bytes(32), DIGEST, signature)


@pytest.mark.parametrize("size", [0, 19, 21, 32])
def test_an_address_has_twenty_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="20 bytes"):
        account_of(bytes(size))


def test_a_wallet_signs_the_same_each_time() -> None:
    assert wallet_signature(DOMAIN, ORDER, SECRET) == WALLET
