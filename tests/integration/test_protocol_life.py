"""An upgrade and a trainer that falls silent, lived through by every role of one network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grail_core.checkpoints import announcement
from grail_core.errors import ConfigurationError, UpgradeRequiredError
from grail_core.keys import write_wallet
from grail_core.participant import waiting
from grail_core.participant.participant import Participant
from grail_core.protocol import WindowStatus
from grail_core.protocol.types import Block, Window
from grail_core.protocol.upgrade import Upgrade
from grail_core.storage.retention import Retention
from grail_miner.service import MinerService
from grail_trainer.cli import cli
from grail_trainer.data.intake import VerdictListener
from grail_trainer.upgrades import announce, withdraw
from grail_validator.first_sight import Sighted
from tooling.testing.driven_chain import Driven
from tooling.testing.faults import events
from tooling.testing.mining import upload
from tooling.testing.next_checkpoint import NextCheckpoints
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model

NOTICE = 2
MINER, VALIDATOR = "miner-0", "validator-0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("life") / "model")


@pytest.fixture
def network(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> SmallNetwork:
    monkeypatch.setattr(announcement, "LEAST_NOTICE_WINDOWS", NOTICE)
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)
    (tmp_path / "model").symlink_to(model)
    return SmallNetwork(tmp_path, miners=1, validators=1, model=model)


def miner(network: SmallNetwork) -> MinerService:
    participant = dataclasses.replace(
        network.participant(MINER), chain=Driven(network.chain, limit=10**6), package="grail-miner"
    )
    retention = Retention(participant.own_store, [])
    return MinerService(participant, network.mining(MINER), retention, max_groups=1, safety_blocks=2)


def announced(network: SmallNetwork) -> Upgrade:
    """The trainer says it while its first checkpoint is in force; its second one carries it. From a later window on."""
    trainer = network.participant("trainer")
    block = FIRST_WINDOW + 30 * 4
    announce(trainer, version=2, block=block)
    assert NextCheckpoints(network).publish().upgrade == Upgrade(2, Block(block))
    return Upgrade(2, Block(block))


def mined(network: SmallNetwork, window: Window) -> None:
    """The miner's file and seal of a window."""
    network.advance_to(window + 2)
    mining = network.mining(MINER)
    upload(network, mining, MINER, network.mine(mining, window, [0]), window)


def worked(network: SmallNetwork, window: Window) -> None:
    """The same, and its deadline has passed."""
    mined(network, window)
    network.advance_to(window + 30)


def test_every_role_works_up_to_the_block_and_ends_before_its_window_with_the_line_that_upgrades_it(
    network: SmallNetwork,
) -> None:
    upgrade = announced(network)
    last = Window(upgrade.block - 30)
    validator = network.validator(VALIDATOR, package="grail-validator")
    worked(network, last)
    validator.first_sight.sight(last)
    network.advance_to(validator.participant.times(last).challenge_block + 4)
    with events() as names:
        assert validator.advance(last, threading.Event()) is WindowStatus.SCORED
    assert "upgrade_announced" in names
    with pytest.raises(UpgradeRequiredError) as caught:  # asked for once the window before is judged: no seal is read
        validator._require_version(upgrade.block)  # type: ignore[arg-type]
    assert caught.value.hint == "pip install --upgrade grail-validator"

    network.advance_to(upgrade.block + 2)
    service = miner(network)
    with pytest.raises(UpgradeRequiredError) as caught:
        service.run(threading.Event(), windows=1)
    assert (caught.value.exit_code, caught.value.hint) == (3, "pip install --upgrade grail-miner")
    keys = {info.key for info in service.participant.own_store.list("grail/")}
    assert not any(str(upgrade.block) in key for key in keys)

    network.advance_to(upgrade.block + 60)
    ear = VerdictListener(dataclasses.replace(network.participant("trainer"), package="grail-trainer"), max_windows_old=6)
    assert len(ear.wait(last, threading.Event()).wanted) == 1  # type: ignore[union-attr]
    with pytest.raises(UpgradeRequiredError) as caught:
        ear.wait(Window(upgrade.block), threading.Event())
    assert caught.value.hint == "pip install --upgrade grail-trainer"


def test_a_validator_that_runs_judges_the_last_window_sets_weights_and_ends(network: SmallNetwork) -> None:
    upgrade = announced(network)
    last = Window(upgrade.block - 30)
    mined(network, last)
    chain, stop = Driven(network.chain, limit=upgrade.block + 20), threading.Event()
    validator = network.validator(VALIDATOR, chain=chain, package="grail-validator")
    with events() as names, pytest.raises(UpgradeRequiredError):
        validator.run(stop)
    stop.set()  # its first-sight thread, which has not begun another window
    assert names.count("window_judged") == 1
    assert "weights_sent" in names
    assert network.chain.current_block() < upgrade.block + 30
    with pytest.raises(UpgradeRequiredError):  # and started again it ends at once
        network.validator(VALIDATOR, chain=chain, package="grail-validator").run(threading.Event())


@dataclasses.dataclass
class OpensFirst:
    """Opens each window in the thread of first sight, as the watch of rounds of gradient work does."""

    participant: Participant

    def watch(self, window: Window, stop: threading.Event) -> Sighted | None:
        self.participant.wait_for_block(self.participant.times(window).seed_beacon_block, stop)
        self.participant.open_window(window)
        return None


def test_a_validator_whose_first_sight_meets_the_upgrade_ends_with_the_line_too(network: SmallNetwork) -> None:
    upgrade = announced(network)
    network.advance_to(upgrade.block - 20)
    validator = network.validator(VALIDATOR, chain=Driven(network.chain, limit=10**6), package="grail-validator")
    validator.first_sight.rounds = OpensFirst(validator.participant)
    with pytest.raises(UpgradeRequiredError) as caught:
        validator.run(threading.Event())
    assert caught.value.hint == "pip install --upgrade grail-validator"


def test_an_announcement_is_refused_where_it_is_too_near_no_version_or_no_window(network: SmallNetwork) -> None:
    trainer = network.participant("trainer")
    reachable = FIRST_WINDOW + 30
    for version, block, told in (
        (2, reachable + 30 * NOTICE - 30, "is too near"),
        (1, 9000, "version 1 is not"),
        (2, 9001, "begins no window"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            announce(trainer, version=version, block=block)
    assert not trainer.state.announcement.exists()


def test_a_version_that_is_withdrawn_in_time_stops_nobody(network: SmallNetwork) -> None:
    trainer, following = network.participant("trainer"), NextCheckpoints(network)
    announce(trainer, version=2, block=FIRST_WINDOW + 300)
    following.publish()
    withdraw(trainer)
    following.publish()
    network.advance_to(FIRST_WINDOW + 302)
    assert miner(network).participant.open_window(Window(FIRST_WINDOW + 300)).manifest.sequence == 2

    announce(trainer, version=2, block=FIRST_WINDOW + 600)
    network.advance_to(FIRST_WINDOW + 602)
    withdraw(trainer)  # no checkpoint has taken it up: nothing was announced
    miner(network).participant.open_window(Window(FIRST_WINDOW + 600))


def test_a_version_in_force_cannot_be_withdrawn(network: SmallNetwork) -> None:
    upgrade = announced(network)
    network.advance_to(upgrade.block + 2)
    trainer = network.participant("trainer")
    with pytest.raises(ConfigurationError, match="is in force from block"):
        withdraw(trainer)
    with pytest.raises(ConfigurationError, match="is in force from block"):
        announce(trainer, version=2, block=upgrade.block + 9000)


def test_while_the_trainer_is_silent_miners_mine_validators_judge_and_set_weights_and_all_say_so(
    network: SmallNetwork,
) -> None:
    window = Window(FIRST_WINDOW + 30 * 12)
    validator = network.validator(VALIDATOR)
    network.advance_to(window + 2)
    with events() as names:
        had = waiting.wait_for_window(miner(network).participant, window, threading.Event())
    assert had.value.manifest.sequence == 0  # type: ignore[union-attr]
    assert names == ["trainer_silent"]
    worked(network, window)
    validator.first_sight.sight(window)
    network.advance_to(validator.participant.times(window).challenge_block + 4)
    with events() as names:
        assert validator.advance(window, threading.Event()) is WindowStatus.SCORED
        validator._set_weights_if_due()
    assert "trainer_silent" in names
    assert "weights_sent" in names
    with events() as names:
        VerdictListener(network.participant("trainer"), max_windows_old=6).wait(window, threading.Event())
    assert "trainer_silent" in names


def test_the_trainers_command_announces_shows_and_withdraws(network: SmallNetwork, tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))
    seed = hashlib.sha256(b"trainer").digest()
    write_wallet(tmp_path / "wallets", "cold", "trainer", coldkey_seed=bytes(32), hotkey_seed=seed)
    env = {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(tmp_path / "chain.sqlite"),
        "BT_WALLET_PATH": str(tmp_path / "wallets"),
        "BT_WALLET_COLD": "cold",
        "BT_WALLET_HOT": "trainer",
        "GRAIL_NETWORK": str(tmp_path / "network.json"),
        "GRAIL_STORAGE_ROOT": str(tmp_path / "buckets"),
        "GRAIL_STORAGE_BUCKET": "bucket-trainer",
        "GRAIL_CACHE_DIR": str(tmp_path / "cache" / "trainer"),
        "GRAIL_STATE_DIR": str(tmp_path / "state" / "trainer"),
    }

    def upgrade(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["upgrade", *arguments], env=env)

    block = FIRST_WINDOW + 300
    said = upgrade("announce", "--version", "2", "--block", str(block))
    assert said.exit_code == 0, said.output
    expected = {"version": 2, "block": block}
    assert json.loads(upgrade("show", "--json").stdout) == {"newest": None, "next": expected}
    NextCheckpoints(network).publish()
    assert json.loads(upgrade("show", "--json").stdout) == {"newest": expected, "next": expected}
    assert upgrade("withdraw").exit_code == 0
    assert json.loads(upgrade("show", "--json").stdout) == {"newest": expected, "next": None}
    near = upgrade("announce", "--version", "2", "--block", str(FIRST_WINDOW + 60))
    assert isinstance(near.exception, ConfigurationError)
    assert "is the first one" in near.exception.hint
    env["BT_WALLET_HOT"] = "miner-0"
    write_wallet(
        tmp_path / "wallets", "cold", "miner-0", coldkey_seed=bytes(32), hotkey_seed=hashlib.sha256(b"miner-0").digest()
    )
    stranger = upgrade("announce", "--version", "2", "--block", str(block))
    assert isinstance(stranger.exception, ConfigurationError)
    assert "not the trainer" in stranger.exception.what
