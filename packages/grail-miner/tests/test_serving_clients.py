"""The file of clients: what is refused in it, how it is read again, and the command that makes a token."""

from __future__ import annotations

import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.errors import ConfigurationError
from grail_miner.cli import cli
from grail_miner.serving.clients import MAX_CLIENTS, Clients, hash_of, read_clients
from grail_miner.serving.new_token import add_client

TOKEN = "t" * 43
HASH = hash_of(TOKEN).hex()
ENTRY = f'[clients.alice]\nhash = "{HASH}"\n'


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def written(folder: Path, text: str) -> Path:
    path = folder / "clients.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_an_entry_needs_a_hash_alone_and_says_all_else_by_name(tmp_path: Path) -> None:
    more = (
        'requests_per_minute = 7\ntokens_per_minute = 8\nconcurrent = 9\nmetrics = true\nnetworks = ["203.0.113.0/24", "::1"]\n'
    )
    other = f'[clients.bob]\nhash = "{hash_of("u" * 43).hex()}"\n{more}'
    alice, bob = read_clients(written(tmp_path, ENTRY + other)).clients
    assert (alice.name, alice.requests_per_minute, alice.tokens_per_minute, alice.concurrent) == ("alice", 60, 100_000, 8)
    assert (bob.requests_per_minute, bob.tokens_per_minute, bob.concurrent, bob.metrics) == (7, 8, 9, True)
    assert not alice.metrics
    assert not alice.operator
    assert HASH not in repr(alice)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[client.alice]\n", "clients.toml: "),
        ("[clients.alice]\n", "clients.alice"),
        ('[clients.alice]\nhash = "abc"\n', "clients.alice.hash"),
        (f'[clients.alice]\nhash = "{HASH.upper()}"\n', "clients.alice.hash"),
        (f"{ENTRY}requests_per_hour = 1\n", "clients.alice"),
        (f"{ENTRY}requests_per_minute = 0\n", "clients.alice.requests_per_minute"),
        (f"{ENTRY}tokens_per_minute = 1.5\n", "clients.alice.tokens_per_minute"),
        (f"{ENTRY}concurrent = true\n", "clients.alice.concurrent"),
        (f"{ENTRY}metrics = 1\n", "clients.alice.metrics"),
        (f'{ENTRY}networks = ["203.0.113.1/24"]\n', "clients.alice.networks[0]"),
        (f'{ENTRY}networks = "203.0.113.0/24"\n', "clients.alice.networks"),
        (f'{ENTRY}[clients.bob]\nhash = "{HASH}"\n', "clients.bob"),
        (f'{ENTRY}[clients."a b"]\nhash = "{"0" * 64}"\n', "clients"),
        (f'[clients.loopback]\nhash = "{HASH}"\n', "clients"),
        (ENTRY + ENTRY, "line 3"),
        ("clients = 7\n", "clients"),
        ('loopback = "no"\n', "loopback"),
        ("[clients.alice\n", "line 1"),
        ("#" * 70_000, "clients.toml"),
        ("".join(f'[clients.c{i}]\nhash = "{i:064x}"\n' for i in range(MAX_CLIENTS + 1)), "clients"),
    ],
)
def test_what_is_unknown_twice_or_out_of_bounds_is_refused_with_its_place(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_clients(written(tmp_path, text))
    assert where in error.value.where
    assert error.value.hint
    assert HASH not in str(error.value)


def test_a_file_that_everybody_may_write_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ENTRY)
    path.chmod(0o602)
    with pytest.raises(ConfigurationError, match="everybody on this machine may write"):
        read_clients(path)
    with pytest.raises(ConfigurationError, match="no such file") as error:
        read_clients(tmp_path / "other.toml")
    assert "grail-miner token" in error.value.hint


def test_a_token_is_found_whole_and_from_its_networks_alone(tmp_path: Path) -> None:
    other = f'[clients.bob]\nhash = "{hash_of("u" * 43).hex()}"\nnetworks = ["203.0.113.0/24", "2001:db8::/32"]\n'
    short = f'[clients.short]\nhash = "{hash_of("hunter2").hex()}"\n'
    clients = read_clients(written(tmp_path, ENTRY + other + short))
    found = clients.find(TOKEN, "198.51.100.9")
    assert found is not None
    assert found.name == "alice"
    for wrong in ("", TOKEN[:-1], TOKEN + "t", TOKEN.upper(), "ü" * 43, "t" * 10_000, "hunter2", HASH):
        assert clients.find(wrong, "127.0.0.1") is None
    for peer, taken in (
        ("203.0.113.200", True),
        ("::ffff:203.0.113.1", True),
        ("2001:db8::1", True),
        ("203.0.114.1", False),
        ("127.0.0.1", False),
        ("", False),
        ("testclient", False),
    ):
        assert (clients.find("u" * 43, peer) is not None) is taken, peer


def test_a_token_is_taken_back_without_a_restart_and_within_a_second(tmp_path: Path) -> None:
    path, clock = written(tmp_path, ENTRY), Seconds()
    clients = Clients(path, monotonic=clock)
    assert clients.now.find(TOKEN, "") is not None
    written(tmp_path, "")
    assert clients.now.find(TOKEN, "") is not None  # it is not looked at for every request
    clock.now = 1.0
    assert clients.now.find(TOKEN, "") is None


@pytest.mark.parametrize("how", ["damaged", "removed", "writable"])
def test_a_file_that_became_bad_leaves_the_clients_as_they_were_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path, clock = written(tmp_path, ENTRY), Seconds()
    clients = Clients(path, monotonic=clock)
    if how == "damaged":
        written(tmp_path, ENTRY + "hash = ")
    elif how == "removed":
        path.unlink()
    else:
        path.chmod(0o666)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            clock.now += 1
            assert clients.now.find(TOKEN, "") is not None
    assert [record.getMessage() for record in caplog.records] == ["clients_kept"]
    written(tmp_path, ENTRY.replace("alice", "carol"))
    clock.now += 1
    found = clients.now.find(TOKEN, "")
    assert found is not None
    assert found.name == "carol"


def test_the_command_tells_a_token_once_and_keeps_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "clients.toml"
    done = CliRunner().invoke(cli, ["token", "alice", "--file", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    token = done.stdout.strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in path.read_text()
    found = read_clients(path).find(token, "")
    assert found is not None
    assert found.name == "alice"


def test_the_command_takes_the_file_of_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["token", "alice"]).exit_code == 2
    monkeypatch.setenv("GRAIL_SERVE_TOKENS", str(tmp_path / "clients.toml"))
    assert CliRunner().invoke(cli, ["token", "alice"]).exit_code == 0
    assert [one.name for one in read_clients(tmp_path / "clients.toml").clients] == ["alice"]


def test_what_stands_in_the_file_stays_and_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "# whom we serve\nloopback = false\n" + ENTRY.rstrip())
    add_client(path, "bob")
    assert path.read_text().startswith("# whom we serve\nloopback = false\n" + ENTRY)
    before = path.read_bytes()
    for name, says in (("bob", "a client bob already"), ("a b", "no name"), ("loopback", "no name"), ("a.b]\n", "no name")):
        with pytest.raises(ConfigurationError, match=says):
            add_client(path, name)
    assert path.read_bytes() == before


def test_a_file_that_takes_no_entry_is_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, f'clients = {{alice = {{hash = "{HASH}"}}}}\n')
    with pytest.raises(ConfigurationError, match="no entry can be appended"):
        add_client(path, "bob")
    assert [one.name for one in read_clients(path).clients] == ["alice"]


def test_clients_that_are_made_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "clients.toml"
    names = [f"client-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda name: add_client(path, name), names))
    listed = read_clients(path)
    assert [found.name for token in tokens if (found := listed.find(token, ""))] == names
    assert os.listdir(tmp_path) == ["clients.toml"]
