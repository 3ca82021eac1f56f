"""Verified rollouts out of a network and into a learner: an export of real files, resumed, verified, learned from offline."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from grail_core import api
from grail_core.chain.development.local import LocalChain
from grail_core.commands.grail import cli as grail
from grail_core.disk import write_atomically
from grail_core.errors import ConfigurationError, GrailError, ProtocolViolationError
from grail_core.exported import exporting
from grail_core.exported.folder import ExportFolder
from grail_core.files.shared import get_file, put_file
from grail_core.files.window_file import read_window_file
from grail_core.keys import ss58
from grail_core.model.prompts import PromptRenderer
from grail_core.participant.state import AlreadyRunningError, only_process
from grail_core.protocol import MinerStatus, rollout_digest
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import file_key, verdict_key
from grail_trainer.cli import cli as trainer
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.offline.learn import OfflineRequest, learn_offline
from tooling.testing.learning_network import SETTINGS, LearningNetwork, learning_model
from tooling.testing.mining import upload
from tooling.testing.network import FIRST_WINDOW
from tooling.testing.speaking import say, scored

SECOND = Window(FIRST_WINDOW + 30)
MINERS = ("miner-0", "miner-1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, model: Path) -> LearningNetwork:
    """Two windows; both validators accept both miners' files of each, the first validator alone one more of miner-2's."""
    network = LearningNetwork(tmp_path_factory.mktemp("network"), model=model, miners=3)
    for window in (FIRST_WINDOW, SECOND):
        network.advance_to(window + 5)
        files = {}
        for name in MINERS:
            mining = network.mining(name)
            files[name] = network.mine(mining, window, range(2))
            upload(network, mining, name, files[name], window)
        accepted = {name: (data, MinerStatus.ACCEPTED) for name, data in files.items()}
        body = scored(network, accepted, window)
        lonely = scored(network, {**accepted, "miner-2": (b"another", MinerStatus.ACCEPTED)}, window)
        for name, said in (("validator-0", lonely), ("validator-1", body)):
            for data in files.values():
                put_file(network.participant(name).own_store, Digest(hashlib.sha256(data).digest()), data)
            say(network, name, said)
    network.advance_to(SECOND + 70)
    (network.root / "network.json").write_text(json.dumps(network.params.to_json()))
    return network


def environment(network: LearningNetwork) -> dict[str, str]:
    return {
        "GRAIL_NETWORK": str(network.root / "network.json"),
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(network.root / "chain.sqlite"),
        "GRAIL_STORAGE_ROOT": str(network.root / "buckets"),
        "GRAIL_CACHE_DIR": str(network.root / "reader"),
        "GRAIL_STATE_DIR": str(network.root / "reader-state"),
    }


def export(network: LearningNetwork, folder: Path, *options: str, windows: str = f"{FIRST_WINDOW}..latest") -> Result:
    return CliRunner().invoke(grail, ["rollouts", "export", windows, str(folder), *options], env=environment(network))


def exported(network: LearningNetwork, folder: Path, *options: str, windows: str = f"{FIRST_WINDOW}..latest") -> ExportFolder:
    ran = export(network, folder, *options, windows=windows)
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return ExportFolder.open(folder)


def refusal(ran: Result) -> GrailError:
    assert isinstance(ran.exception, GrailError), (ran.output, ran.exception)
    return ran.exception


def rows_of(folder: ExportFolder) -> list[dict[str, Any]]:
    receipts = [folder.receipt(window) for window in folder.windows()]
    return [row.to_json() for receipt in receipts for file in receipt.files for row in folder.rows(receipt, file)]


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(network: LearningNetwork, tmp_path_factory: pytest.TempPathFactory) -> ExportFolder:
    return exported(network, tmp_path_factory.mktemp("export") / "jsonl", "--format", "jsonl", "--keep-files")


def test_every_format_says_the_same_and_another_library_reads_it(
    network: LearningNetwork, whole: ExportFolder, tmp_path: Path
) -> None:
    parquet, hf = exported(network, tmp_path / "parquet"), exported(network, tmp_path / "hf", "--format", "hf")
    assert rows_of(parquet) == rows_of(hf) == rows_of(whole)
    assert pq.ParquetDataset(parquet.root / "data").read().num_rows == len(rows_of(whole)) == 2 * 2 * 2 * 16
    assert "path: data/*.parquet" in (hf.root / "README.md").read_text()
    assert tree(exported(network, tmp_path / "again").root) == tree(parquet.root), "the same bytes again"


def test_a_row_is_what_the_accepted_file_says_with_the_texts_that_the_checkpoints_tokenizer_gives(
    network: LearningNetwork, whole: ExportFolder, model: Path
) -> None:
    renderer, network_id = PromptRenderer(model), network.participant("trainer").network_id
    receipt = whole.receipt(FIRST_WINDOW)
    assert [file.hotkey for file in receipt.files] == [
        ss58(hotkey) for hotkey in sorted(network.signers[name].hotkey for name in MINERS)
    ], "what half of the stake accepts is not in it"
    for file in receipt.files:
        data = whole.kept_file(file.content_digest).read_bytes()
        verified = api.verify_window_file(data, network_id=network_id, miner=api.hotkey(file.hotkey), window=FIRST_WINDOW)
        assert verified.header == file.header
        for row, record in zip(whole.rows(receipt, file), read_window_file(data).table.records(), strict=True):
            assert (row.group, row.rollout, row.reward, row.success) == (
                record.group, record.rollout, record.reward, record.success,
            )  # fmt: skip
            assert [*row.prompt_ids, *row.completion_ids] == record.tokens.tolist()
            assert row.logprobs.tobytes() == record.logprobs.tobytes()
            assert row.completion == renderer.decode(record.completion.tolist())
            assert "<|user|>" in row.prompt
            assert row.rollout_digest == rollout_digest(network_id, record).hex()
            assert row.truncated == (int(record.completion[-1]) not in network.manifest.end_token_ids)
    assert len(file.accepted_by) == 2


def test_killed_at_any_write_it_goes_on_fetches_nothing_twice_and_ends_the_same(
    network: LearningNetwork, whole: ExportFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    left = 0

    def dying(path: Path, data: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write_atomically(path, data)

    def counted(store: Any, key: str, *arguments: Any, **options: Any) -> Any:
        fetched.append(key)
        return get_file(store, key, *arguments, **options)

    monkeypatch.setattr(exporting, "write_atomically", dying)
    monkeypatch.setattr(exporting, "get_file", counted)
    starts = 0
    while True:
        left, starts = 3, starts + 1
        ran = export(network, tmp_path / "export", "--format", "jsonl", "--keep-files")
        if ran.exit_code == 0:
            break
        assert starts < 10, "it gets on with every start"
    assert starts > 3
    assert tree(tmp_path / "export") == tree(whole.root)
    assert max(map(fetched.count, fetched)) <= 2, "once more alone where it died between fetching and writing"
    fetched.clear()
    left = 3
    assert export(network, tmp_path / "export", "--format", "jsonl", "--keep-files").exit_code == 0
    assert fetched == []


def copied(network: LearningNetwork, folder: Path) -> LearningNetwork:
    """The same network in a folder of its own, to be tampered with."""
    shutil.copytree(network.root, folder)
    other = object.__new__(LearningNetwork)
    other.__dict__.update(network.__dict__)
    other.root, other.chain = folder, LocalChain.open(folder / "chain.sqlite")
    return other


def test_what_cannot_be_had_is_named_and_is_in_it_once_it_can(
    network: LearningNetwork, whole: ExportFolder, tmp_path: Path
) -> None:
    other = copied(network, tmp_path / "network")
    gone = whole.receipt(FIRST_WINDOW).files[0].content_digest
    stores = [other.participant(name).own_store for name in ("validator-0", "validator-1")]
    data = stores[0].get(file_key(gone), max_bytes=10**7)
    for store in stores:
        store.put(file_key(gone), b"other bytes")
    ran = export(other, tmp_path / "export", "--json", "--format", "jsonl")
    assert ran.exit_code == 0
    first = json.loads(ran.stdout)["windows"][0]
    assert (first["files"], first["missing"], first["final"]) == (1, 1, False)
    assert "the bytes are not those of the digest" in ran.stderr
    stores[1].put(file_key(gone), data)
    assert rows_of(exported(other, tmp_path / "export", "--format", "jsonl")) == rows_of(whole)


def test_without_most_of_the_stake_nothing_is_exported_and_it_says_why(network: LearningNetwork, tmp_path: Path) -> None:
    other = copied(network, tmp_path / "network")
    other.participant("validator-0").own_store.put(verdict_key(FIRST_WINDOW), b"{}\x1b[2J")
    other.participant("validator-1").own_store.delete(verdict_key(FIRST_WINDOW))
    error = refusal(export(other, tmp_path / "export", windows=str(FIRST_WINDOW)))
    assert "less than half of the trusted stake has scored it" in error.what
    assert error.exit_code == 11
    assert not (tmp_path / "export" / "data").exists()


def test_a_folder_of_something_else_is_not_written_into(network: LearningNetwork, whole: ExportFolder, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "something else in this folder: mine.txt" in refusal(export(network, tmp_path)).what
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["mine.txt"]
    assert "and" in refusal(export(network, whole.root, "--format", "hf")).what
    with only_process(whole.root / ".lock", "held", hint=""):
        assert isinstance(refusal(export(network, whole.root, "--format", "jsonl")), AlreadyRunningError)
    for windows, said in (("31", "31 is in 30"), ("90..30", "after"), ("9999990", "is not over"), ("x", "no block number")):
        ran = export(network, tmp_path / "new", windows=windows)
        assert (ran.exit_code, said in ran.output) == (2, True), ran.output


# --- learning from it ---------------------------------------------------------------------------------------------------


def learned(source: Path, model: Path, out: Path, settings: HyperParameters = SETTINGS, **options: Any) -> Path:
    request = OfflineRequest(source, model, out, settings, **options)
    result = learn_offline(request, threading.Event(), lambda _: None)
    assert result.checkpoint is not None
    return result.checkpoint


def test_it_learns_resumes_to_the_bit_and_a_folder_that_can_be_served_comes_out(
    whole: ExportFolder, model: Path, tmp_path: Path
) -> None:
    at_once = learned(whole.root, model, tmp_path / "once")
    assert at_once.name == f"checkpoint-{SECOND}"
    first = learned(whole.root, model, tmp_path / "twice", windows=1)
    second = learned(whole.root, model, tmp_path / "twice", windows=1)
    weights = [folder / "model.safetensors" for folder in (model, first, second, at_once)]
    assert weights[2].read_bytes() == weights[3].read_bytes()
    assert len({path.read_bytes() for path in weights}) == 3, "every window changes the weights"
    assert PromptRenderer(at_once).tokenizer_digest == PromptRenderer(model).tokenizer_digest
    again = learn_offline(OfflineRequest(whole.root, model, tmp_path / "twice", SETTINGS), threading.Event(), lambda _: None)
    assert (again.learned, again.in_all) == (0, 2)


def test_the_command_tells_each_window_and_the_folder(whole: ExportFolder, model: Path, tmp_path: Path) -> None:
    asked = ["train", "--from", str(whole.root), "--model", str(model), "--out", str(tmp_path / "out"), "--json"]
    ran = CliRunner().invoke(
        trainer, [*asked, "--epochs", "1", "--minibatches", "1", "--kl-coefficient", "0", "--windows", "1"]
    )
    assert ran.exit_code == 0, (ran.output, ran.exception)
    window, result = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (window["window"], window["steps"], result["windows"]) == (FIRST_WINDOW, 1, 1)
    assert Path(result["checkpoint"]).is_dir()


def test_an_alarm_is_told_with_value_bound_and_what_was_done(whole: ExportFolder, model: Path, tmp_path: Path) -> None:
    asked = ["train", "--from", str(whole.root), "--model", str(model), "--out", str(tmp_path / "out"), "--windows", "1"]
    quick = ["--epochs", "1", "--minibatches", "1", "--kl-coefficient", "0", "--learning-rate", "0"]
    ran = CliRunner().invoke(trainer, [*asked, *quick, "--alarm-entropy-floor", "100"])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    line = ran.stdout.splitlines()[0]
    assert re.search(r"alarm entropy: entropy, nats a token: [\d.e-]+ against 100, so the learning rate is halved", line), line
    assert "--on-entropy" in line


def test_a_checkpoint_of_another_window_is_answered_with_those_that_are_there(
    whole: ExportFolder, model: Path, tmp_path: Path
) -> None:
    there = learned(whole.root, model, tmp_path / "out")
    ran = CliRunner().invoke(trainer, ["evaluate", "--model", str(there.with_name(f"checkpoint-{FIRST_WINDOW}"))])
    error = refusal(ran)
    assert "no such model folder" in error.what
    assert there.name in error.hint
    assert "init" not in error.hint


def test_measured_log_probabilities_are_those_of_the_model_and_serve_any_temperature(
    whole: ExportFolder, model: Path, tmp_path: Path
) -> None:
    hot = changed(whole, tmp_path / "hot", lambda receipt: receipt["policy"].update(temperature="0.7"))
    with pytest.raises(ConfigurationError, match=r"drawn at temperature 0\.7") as caught:
        learned(hot, model, tmp_path / "a")
    assert "--behaviour model" in caught.value.hint
    assert learned(hot, model, tmp_path / "b", behaviour="model").is_dir()
    with pytest.raises(ConfigurationError, match="another behaviour"):
        learned(whole.root, model, tmp_path / "b")


def changed(export_: ExportFolder, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose receipts say something else."""
    shutil.copytree(export_.root, folder)
    for path in (folder / "receipts").iterdir():
        value = json.loads(path.read_bytes())
        change(value)
        path.write_bytes(canonical_json(value))
    return folder


Change = Callable[[list[dict[str, Any]]], None]


def rewritten(change_rows: Change, *, told: bool = True) -> Callable[[ExportFolder, Path], Path]:
    """A copy in which the rows of each shard are others, and, where `told`, receipts that go along."""

    def make(export_: ExportFolder, folder: Path) -> Path:
        def change(receipt: dict[str, Any]) -> None:
            for file in receipt["files"]:
                path = folder / "data" / f"{receipt['window']:012}-{file['hotkey']}.jsonl"
                rows = [json.loads(line) for line in path.read_text().splitlines()]
                change_rows(rows)
                path.write_text("".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows))
                if told:
                    file["rows"], file["shard_bytes"] = len(rows), path.stat().st_size
                    file["shard_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()

        return changed(export_, folder, change)

    return make


def with_value(column: str, value: Any) -> Callable[[ExportFolder, Path], Path]:
    return rewritten(lambda rows: rows[3].update({column: value}))


def with_token(token: int) -> Callable[[ExportFolder, Path], Path]:
    return rewritten(lambda rows: rows[3]["completion_ids"].__setitem__(0, token))


def turned(rows: list[dict[str, Any]]) -> None:
    """Of the same length."""
    text = rows[3]["rollout_digest"]
    rows[3]["rollout_digest"] = ("1" if text[0] == "0" else "0") + text[1:]


def forged(export_: ExportFolder, folder: Path) -> Path:
    def change(receipt: dict[str, Any]) -> None:
        receipt["files"][0]["header"]["merkle_root"] = "00" * 32

    return changed(export_, folder, change)


def elsewhere(export_: ExportFolder, folder: Path) -> Path:
    def change(receipt: dict[str, Any]) -> None:
        receipt["files"][0]["hotkey"] = "../../../../etc/passwd"

    return changed(export_, folder, change)


def linked(export_: ExportFolder, folder: Path) -> Path:
    shutil.copytree(export_.root, folder)
    shard = sorted((folder / "data").iterdir())[0]
    shard.rename(folder / "kept")
    shard.symlink_to(folder / "kept")
    return folder


def cut(export_: ExportFolder, folder: Path) -> Path:
    shutil.copytree(export_.root, folder)
    shard = sorted((folder / "data").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    return folder


def empty(export_: ExportFolder, folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(export_.root / "export.json", folder)
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (with_token(10**6), "does not fit this model: token 1000000"),
        (with_token(-1), "completion_ids"),
        (rewritten(turned, told=False), "SHA-256"),
        (rewritten(lambda rows: rows.append(rows[3])), "row 32: rollout 3 of group 0 stands twice"),
        (with_value("group_id", "30/x\nwindow 60: 9 groups"), "row 3: group_id"),
        (with_value("reward", 10**400), "row 3: reward"),
        (with_value("reward", -1e308), "row 3: reward"),
        (forged, "not one that it signed"),
        (elsewhere, "another one than that of its signed header"),
        (linked, "no regular file"),
        (cut, "shorter than"),
        (empty, "no whole window"),
    ],
    ids=["token", "negative", "damaged", "twice", "newline", "huge", "large", "forged", "elsewhere", "linked", "cut", "empty"],
)
def test_a_strangers_folder_that_is_not_right_is_refused_before_anything_is_learned(
    whole: ExportFolder, model: Path, tmp_path: Path, make: Callable[[ExportFolder, Path], Path], said: str
) -> None:
    with pytest.raises(ProtocolViolationError) as caught:
        learned(make(whole, tmp_path / "theirs"), model, tmp_path / "out")
    assert said in caught.value.what
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_folder_that_is_none_is_said_to_be_none(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no export in this folder"):
        learned(tmp_path, model, tmp_path / "out")
