"""`grail-trainer upgrade`: decide what the network's next checkpoints announce, beside a trainer that may run.

The decision is a file in the trainer's state; whoever publishes next takes it up (`checkpoints.announcement`). Only the key
that signs checkpoints announces anything: without it the file is worth nothing.
"""

from __future__ import annotations

from grail_core.checkpoints.announcement import (
    Announcement,
    read_announcement,
    require_announceable,
    write_announcement,
)
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.participant.deployment import open_checkpoints
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.participant.state import StateFolder, network_state
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Block, Window
from grail_core.protocol.upgrade import Upgrade
from grail_core.telemetry.json_output import say
from grail_trainer.publishing.publication import first_reachable
from grail_trainer.start import require_trainer


def announce_upgrade(settings: Settings, *, version: int, block: int) -> str:
    """Returns what to tell the operator. Errors: as `decide`."""
    return announce(_trainer(settings), version=version, block=block)


def withdraw_upgrade(settings: Settings) -> str:
    """Returns what to tell the operator. Errors: as `decide`."""
    return withdraw(_trainer(settings))


def announce(participant: Participant, *, version: int, block: int) -> str:
    """Errors: ConfigurationError for a version that is not later or a block that begins no window; as `decide`."""
    try:
        upgrade = Upgrade(version, Block(block))
    except ValueError as error:
        where = f"--version {version}" if str(error).startswith("version") else f"--block {block}"
        raise ConfigurationError(str(error), where=where) from error
    decide(participant, Announcement(upgrade))
    return (
        f"the next checkpoint will announce protocol version {version} from block {block} on; "
        "`grail-trainer upgrade withdraw` takes it back until it is in force"
    )


def withdraw(participant: Participant) -> str:
    """Errors: as `decide`."""
    decide(participant, Announcement(None))
    return "the next checkpoint will announce no later version"


def decide(participant: Participant, announcement: Announcement) -> None:
    """Write down what the next checkpoint announces.

    Raises:
        CheckpointError: the network has no checkpoint yet.
        ConfigurationError: it may not be announced, moved or withdrawn any more; says from which block on it may.
    """
    head = participant.own_checkpoints.sequence().head
    if head is None:
        raise CheckpointError("the network has no checkpoint yet", hint="publish the first one; nobody is to be told before")
    require_announceable(announcement, head, next_valid_from(participant, head))
    write_announcement(participant.state.announcement, announcement)


def next_valid_from(participant: Participant, head: CheckpointManifest) -> Window:
    """The first window that a checkpoint published now can come into force in."""
    reachable = first_reachable(participant.current_window(), participant.chain.current_block(), participant.params, spare=1)
    return max(reachable, Window(head.valid_from + WINDOW_LENGTH))


def show_command(settings: Settings, *, as_json: bool) -> None:
    """No wallet is needed: checkpoints are public, and what was decided lies in the trainer's state, where it is here."""
    network = open_checkpoints(settings)
    head = network.checkpoints.view().head
    said = None if head is None else head.upgrade
    state = StateFolder(
        network_state(settings.state_dir, network.params, network.params.network_id(network.chain.genesis_hash)),
        network.params.trainer_hotkey,
    )
    known = state.trainer.is_dir()
    decided = read_announcement(state.announcement) if known else None
    following = said if decided is None else decided.upgrade
    value = {"newest": said and said.to_json(), "next": following and following.to_json()}
    elsewhere = "what the next one announces is decided on the trainer's machine, which this is not"
    sentence = f"the next one announces {_told(following)}" if known else elsewhere
    say(
        f"the newest checkpoint announces {_told(said)}\n{sentence}",
        value if known else {"newest": value["newest"], "next": None, "next_known": False},
        as_json=as_json,
    )


def _told(upgrade: Upgrade | None) -> str:
    return "no later version" if upgrade is None else f"protocol version {upgrade.version} from block {upgrade.block} on"


def _trainer(settings: Settings) -> Participant:
    participant = Participant.from_settings(settings, package="grail-trainer")
    require_trainer(participant)
    return participant
