"""`grail-miner check` says of a file what a validator would, before it is uploaded: without chain, wallet or bucket."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.errors import CheckpointError, ConfigurationError, ProtocolViolationError
from grail_core.generation.base import Completion
from grail_core.gradient.update_file import MAGIC
from grail_core.participant.settings import Settings, load_settings
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.context import WindowContext
from grail_miner.check import CheckRequest, check, check_command
from grail_miner.mining import Mining
from tooling.testing.mining import mine, mining_of
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.network import FIRST_WINDOW, Network


class NoModel(Mining):
    """Makes its proof up."""

    def prove(
        self, context: WindowContext, prepared: PreparedCheckpoint, prompt: tuple[int, ...], answers: Sequence[Completion]
    ) -> list[RolloutProof]:
        lengths = [len(answer.tokens) for answer in answers]
        return [RolloutProof(bytes(8 * (length + 1)), np.zeros(length, np.float32)) for length in lengths]


@dataclass(frozen=True)
class Mined:
    settings: Settings
    honest: Path
    seal: Path
    made_up: Path
    network: Network


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Mined:
    root, folder = tmp_path_factory.mktemp("network"), tmp_path_factory.mktemp("files")
    network = Network(root, model=save_byte_model(tmp_path_factory.mktemp("model")), miners=1, validators=1)
    network.advance_to(FIRST_WINDOW + 1)
    mining = mining_of(network, "miner-0")
    data = mine(network, mining, FIRST_WINDOW, range(2))
    context = network.participant("trainer").open_window(FIRST_WINDOW)
    (folder / "honest.parquet").write_bytes(data)
    (folder / "seal.json").write_bytes(mining.seal(context, data).encode())
    (folder / "made-up.parquet").write_bytes(mine(network, mining_of(network, "miner-0", NoModel), FIRST_WINDOW, range(1)))
    (folder / "network.json").write_text(json.dumps(network.params.to_json()))
    settings = load_settings(
        bt_network="local",
        bt_chain_endpoint=str(root / "chain.sqlite"),
        network=str(folder / "network.json"),
        wallet_path=folder / "no-wallet",
        cache_dir=network.participant("miner-0").cache_dir,
        state_dir=folder / "state",
        storage_root=root / "buckets",
        beacon_urls="http://127.0.0.1:9",
    )
    return Mined(settings, folder / "honest.parquet", folder / "seal.json", folder / "made-up.parquet", network)


def refused(settings: Settings, asked: CheckRequest, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(ProtocolViolationError, match="would reject this file"):
        check_command(settings, asked, as_json=False)
    return " ".join(capsys.readouterr().out.split())


def test_an_honest_file_and_its_seal_are_accepted_and_every_check_is_named(
    mined: Mined, capsys: pytest.CaptureFixture[str]
) -> None:
    check_command(mined.settings, CheckRequest(mined.honest, mined.seal, every=True), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["rollouts_measured"], told["causes"]) == ("accept", 32, [])
    checks = {finding["check"] for finding in told["findings"]}
    assert checks == {"seal", "file", "schema", "unique", "prompt", "termination", "reward", "proof", "logprob", "sampling"}
    assert any("block hash" in taken for taken in told["taken"])


def test_a_file_is_judged_whole_without_any_network(mined: Mined, capsys: pytest.CaptureFixture[str]) -> None:
    """Its beacon round is in it: whoever has file and checkpoint needs neither relay nor chain nor store."""
    asked: list[str] = []
    listening = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:  # there is no way to take one out again
        if listening and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            family = getattr(arguments[0], "family", socket.AF_INET)
            if family in (socket.AF_INET, socket.AF_INET6):
                asked.append(event)
                raise OSError("no network here")

    sys.addaudithook(hook)
    try:
        with pytest.raises(OSError, match="no network"):
            socket.create_connection(("127.0.0.1", 9))
        asked.clear()
        check_command(mined.settings, CheckRequest(mined.honest, every=True), as_json=True)
    finally:
        listening = False
    assert json.loads(capsys.readouterr().out)["outcome"] == "accept"
    assert asked == []


def test_a_proof_that_ran_no_model_is_named_as_one(mined: Mined, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ran no model" in refused(mined.settings, CheckRequest(mined.made_up), capsys)


def test_without_a_model_the_checks_of_all_rows_are_made_and_that_is_said(
    mined: Mined, capsys: pytest.CaptureFixture[str]
) -> None:
    check_command(mined.settings, CheckRequest(mined.made_up, rollouts=0), as_json=False)
    assert "no model was asked" in capsys.readouterr().out


def test_the_chain_is_asked_where_it_is_wanted_and_a_checkpoint_that_lacks_is_fetched(mined: Mined, tmp_path: Path) -> None:
    elsewhere = mined.settings.model_copy(update={"cache_dir": tmp_path})
    with pytest.raises(CheckpointError, match="is not on this machine"):
        check(elsewhere, CheckRequest(mined.honest))
    checked = check(elsewhere, CheckRequest(mined.honest, rollouts=16, online=True))
    assert (checked.rejected, checked.sampled) == (None, 16)


def test_a_seal_of_other_bytes_or_by_another_is_refused_with_the_words_of_first_sight(
    mined: Mined, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "other bytes" in refused(mined.settings, CheckRequest(mined.made_up, mined.seal), capsys)
    spoilt = tmp_path / "seal.json"
    value = json.loads(mined.seal.read_bytes())
    spoilt.write_bytes(json.dumps({**value, "signature": "00" * 64}, separators=(",", ":"), sort_keys=True).encode())
    assert "the signature is not the hotkey's over this seal" in refused(
        mined.settings, CheckRequest(mined.honest, spoilt), capsys
    )


def test_what_is_no_window_file_is_told_in_words(mined: Mined, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in (("empty", b""), ("text", b"hello"), ("cut", mined.honest.read_bytes()[:-9])):
        path = tmp_path / name
        path.write_bytes(data)
        assert "file: reject" in refused(mined.settings, CheckRequest(path), capsys)


def test_a_file_of_gradient_work_is_said_to_be_one_and_not_rejected(mined: Mined, tmp_path: Path) -> None:
    update = tmp_path / "update.bin"
    update.write_bytes(MAGIC + bytes(64))
    with pytest.raises(ConfigurationError, match="gradient work"):
        check(mined.settings, CheckRequest(update))


def test_a_folder_that_is_no_checkpoint_of_this_network_is_refused(mined: Mined, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of the network"):
        check(mined.settings, CheckRequest(mined.honest, checkpoint=tmp_path))
