"""Whoever opens a network gives a file or a URL and a digest; everybody who joins has exactly these parameters, or none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.commands.grail import cli
from grail_core.errors import ConfigurationError, GrailError
from grail_core.participant.deployment import network_parameters
from grail_core.participant.settings import Settings, load_settings
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.types import Hotkey
from tooling.testing.scripted_server import Answer, ScriptedServer

HERE = dataclasses.replace(LOCALNET, name="here", trainer_hotkey=Hotkey(bytes([7]) * 32))
BODY = json.dumps(HERE.to_json()).encode()
DIGEST = HERE.digest.hex()


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.setenv("GRAIL_CACHE_DIR", str(tmp_path / "cache"))


def asked(monkeypatch: pytest.MonkeyPatch, network: str, digest: str = "") -> ConfigurationError | None:
    """What keeps these settings from being the network HERE."""
    monkeypatch.setenv("GRAIL_NETWORK", network)
    monkeypatch.setenv("GRAIL_NETWORK_DIGEST", digest)
    try:
        assert network_parameters(load_settings()) == HERE
    except ConfigurationError as error:
        return error
    return None


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", "..", ".x", "a\0b", "a\nb", "a b", "", "x" * 65, "é"])
def test_a_name_that_leads_out_of_its_folder_makes_no_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "net.json").write_text(json.dumps({**HERE.to_json(), "name": name}))
    error = asked(monkeypatch, "net.json")
    assert error is not None
    assert error.exit_code == 3
    assert "name" in error.what


@pytest.mark.parametrize("name", ["subnet-81", "localnet", "devnet", "My_net.2"])
def test_names_in_use_make_a_network(name: str) -> None:
    assert NetworkParameters.from_json({**HERE.to_json(), "name": name}).name == name


def test_parameters_of_a_url_are_taken_by_their_digest_and_once_fetched_need_no_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ScriptedServer(Answer(200, BODY)) as server:
        url = f"{server.url}/private/network.json"
        none = asked(monkeypatch, url)
        assert none is not None
        assert none.where == "GRAIL_NETWORK_DIGEST"
        assert server.requests == 0
        other = asked(monkeypatch, url, "ab" * 32)
        assert other is not None
        assert f"their digest is {DIGEST}" in other.what
        assert asked(monkeypatch, url, DIGEST.upper()) is None
        assert server.requests == 2
    assert "private" not in f"{none}{other}"
    assert asked(monkeypatch, url, DIGEST) is None  # nobody answers there any more
    (kept,) = (tmp_path / "cache" / "networks").iterdir()
    kept.write_text(json.dumps({**HERE.to_json(), "name": "another"}))
    gone = asked(monkeypatch, url, DIGEST)
    assert gone is not None
    assert "cannot be fetched" in gone.what


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(404), "status 404"),
        (Answer(302, headers={"Location": "/other"}), "status 302"),
        (Answer(200, b" " * 70_000), "more than 65536 bytes"),
        (Answer(200, b"<html>"), "does not parse"),
        (Answer(200, BODY, {"Content-Encoding": "gzip"}), "compressed"),
    ],
)
def test_what_is_no_file_of_parameters_is_refused(answer: Answer, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(answer) as server:
        error = asked(monkeypatch, server.url, DIGEST)
    assert error is not None
    assert says in error.what
    assert error.exit_code == 3


def test_parameters_come_by_https_or_from_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://example.invalid/network.json", "file:///etc/passwd", "ftp://127.0.0.1/network.json"):
        error = asked(monkeypatch, url, DIGEST)
        assert error is not None
        assert "by https alone" in error.what


def test_a_file_is_held_against_the_digest_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("network.json").write_bytes(BODY)
    assert asked(monkeypatch, "network.json", DIGEST) is None
    other = asked(monkeypatch, "network.json", "ab" * 32)
    assert other is not None
    assert DIGEST in other.what
    malformed = asked(monkeypatch, "network.json", "ab")
    assert malformed is not None
    assert "64 hexadecimal digits" in str(malformed)


def test_the_digest_that_an_operator_publishes_is_shown_for_a_file_and_for_a_url() -> None:
    Path("network.json").write_text(json.dumps(HERE.to_json(), indent=4))
    with ScriptedServer(Answer(200, BODY)) as server:
        for source in ("network.json", server.url):
            shown = CliRunner().invoke(cli, ["network", source, "--json"])
            assert json.loads(shown.stdout) == {"digest": DIGEST, "parameters": HERE.to_json()}
    readable = CliRunner().invoke(cli, ["network", "network.json"]).stdout
    assert DIGEST in readable
    assert "nobody can join it" in CliRunner().invoke(cli, ["network"]).stdout


def test_no_network_is_offered_that_is_refused_when_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    error = asked(monkeypatch, "atlantis")
    assert error is not None
    assert "localnet" not in error.hint.replace("hatch run localnet", "")
    assert "grail devnet init" in error.hint
    pattern = asked(monkeypatch, "localnet")
    assert isinstance(pattern, GrailError)
    assert "a pattern for networks on one machine" in pattern.what
    assert "grail devnet init" in pattern.hint
