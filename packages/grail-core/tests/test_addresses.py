"""URLs in what people are shown: no user, no password, no key, wherever in a URL it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.addresses import all_without_access, without_access

SECRET = "sw0rdfish"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://relay.example", "https://relay.example"),
        ("http://127.0.0.1:8801/", "http://127.0.0.1:8801"),
        ("http://[::1]:8801", "http://[::1]:8801"),
        ("https://relay.example/chain", "https://relay.example/chain"),
        ("/var/lib/chain.sqlite", "/var/lib/chain.sqlite"),
        ("finney", "finney"),
        (f"wss://node.example/{SECRET}", "wss://node.example/***"),
        (f"https://me:{SECRET}@relay.example/chain", "https://***@relay.example/chain"),
        (f"https://{SECRET}@relay.example:443/chain?{SECRET}", "https://***@relay.example:443/***"),
        (f"https://relay.example?key={SECRET}", "https://relay.example/***"),
        (f"https://relay.example/chain/#{SECRET}", "https://relay.example/***"),
        (f"wss://node.example/?apikey=a@{SECRET}", "wss://***"),
        (f"https://me:{SECRET}/a@relay.example", "https://***"),
        (f"https://{SECRET}#a@relay.example", "https://***"),
        (f"https://me:{SECRET}", "https://***"),
        (f"https://[{SECRET}", "https://***"),
        (f"me:{SECRET}@relay.example", "***@relay.example"),
        (f"{SECRET} ://relay.example", "***"),
    ],
)
def test_what_gives_access_is_hidden_and_the_rest_is_shown(url: str, shown: str) -> None:
    assert without_access(url, {"/chain"}) == shown


def test_each_url_of_a_list_is_shown_so_and_a_text_without_any_as_it_is() -> None:
    assert all_without_access(f"wss://one.example/{SECRET}, wss://two.example") == "wss://one.example/***,wss://two.example"
    assert all_without_access("a, b@c") == "a, b@c"


@given(
    st.text(alphabet="/?#@:[]%&= \\.", max_size=6),
    st.text(alphabet="/?#@:[]%&= \\.", max_size=6),
    st.sampled_from(["@h", "", "h"]),
)
def test_no_sign_around_a_password_or_a_key_shows_it(before: str, after: str, end: str) -> None:
    for url in (f"https://me:{before}{SECRET}{after}@relay.example", f"https://relay.example/{before}{SECRET}{after}{end}"):
        assert SECRET not in without_access(url)
