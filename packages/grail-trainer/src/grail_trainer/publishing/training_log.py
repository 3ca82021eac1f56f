"""The training log of a window: everything that anybody needs to repeat its update, signed by the trainer.

Which verified groups were learned from and in which order, what was left out and why, every hyper-parameter, the state before
and after, the checkpoint that came of it. Logs are a chain: each names the one before it. Where a state begins (`begins`),
it is the one that a checkpoint, its `origin`, makes with moments of zero. What only the trainer can know (which files it
could not have, what its own machine failed at) stands in it as said; everything else follows from the rest.

To who reads it, a log is a stranger's bytes: `SignedLog.decode` bounds sizes and types before anything is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.reading import Json, Node, parse_json
from grail_core.protocol.signatures import verify
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from grail_core.protocol.windows import require_window
from grail_trainer.data.batch import BatchMember, DroppedGroup
from grail_trainer.hyper_parameters import MAX_KNOB_TEXT
from grail_trainer.learning.alarms import Alarm
from grail_trainer.publishing.machine_facts import MachineFacts

LOG_VERSION: Final = 2
LOG_TAG: Final = "grail/training-log"
MAX_LOG_BYTES: Final = 32 * 2**20

MAX_GROUPS: Final = 16_384
MAX_FILES: Final = 4096
MAX_VERDICTS: Final = 4096
MAX_DROPPED: Final = 2048
"""Of what was left out, that a log names; how many there were stands beside it. With this many findings of full length each,
a log stays within MAX_LOG_BYTES."""
MAX_DROPPED_FINDINGS: Final = 4
MAX_REASON: Final = 512
MAX_ALARMS: Final = 64
MAX_FIGURES: Final = 128
MAX_FIGURE_TEXT: Final = 64
MAX_SECTIONS: Final = 16
MAX_KNOBS: Final = 128


@dataclass(frozen=True)
class FileName:
    """A window file, by its miner and its SHA-256."""

    hotkey: Hotkey
    content_digest: Digest

    def to_json(self) -> dict[str, Json]:
        return {"hotkey": self.hotkey.hex(), "content_digest": self.content_digest.hex()}

    @classmethod
    def from_json(cls, node: Node) -> FileName:
        m = node.members(*cls.__dataclass_fields__)
        return cls(Hotkey(m["hotkey"].raw(32)), Digest(m["content_digest"].raw(32)))


@dataclass(frozen=True)
class LogLink:
    """The log before this one."""

    window: Window
    digest: Digest

    def to_json(self) -> dict[str, Json]:
        return {"window": self.window, "digest": self.digest.hex()}

    @classmethod
    def from_json(cls, node: Node) -> LogLink:
        m = node.members(*cls.__dataclass_fields__)
        return cls(_window(m["window"]), Digest(m["digest"].raw(32)))


@dataclass(frozen=True)
class PublishedCheckpoint:
    """The checkpoint that carries a window's weights."""

    digest: Digest
    sequence: int
    valid_from: Window
    weights_root: Digest

    @classmethod
    def of(cls, manifest: CheckpointManifest) -> PublishedCheckpoint:
        return cls(manifest.digest, manifest.sequence, manifest.valid_from, manifest.weights_root)

    def to_json(self) -> dict[str, Json]:
        return {
            "digest": self.digest.hex(),
            "sequence": self.sequence,
            "valid_from": self.valid_from,
            "weights_root": self.weights_root.hex(),
        }

    @classmethod
    def from_json(cls, node: Node) -> PublishedCheckpoint:
        m = node.members(*cls.__dataclass_fields__)
        return cls(
            Digest(m["digest"].raw(32)),
            m["sequence"].integer(),
            _window(m["valid_from"]),
            Digest(m["weights_root"].raw(32)),
        )


@dataclass(frozen=True)
class LoggedAlarm:
    """What was raised in the window, and what it did; `value` was beyond `bound`."""

    alarm: str
    action: str
    value: str
    bound: str
    detail: str

    @classmethod
    def of(cls, alarm: Alarm) -> LoggedAlarm:
        said = alarm.to_json() | {"detail": alarm.detail[:MAX_REASON]}
        return cls(**said)

    def to_json(self) -> dict[str, Json]:
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, node: Node) -> LoggedAlarm:
        m = node.members(*cls.__dataclass_fields__)
        return cls(
            alarm=m["alarm"].text(MAX_FIGURE_TEXT),
            action=m["action"].text(MAX_FIGURE_TEXT),
            value=m["value"].text(MAX_FIGURE_TEXT),
            bound=m["bound"].text(MAX_FIGURE_TEXT),
            detail=m["detail"].text(MAX_REASON),
        )


@dataclass(frozen=True)
class TrainingLog:
    """The body. `previous`, `anchor` and `checkpoint` are known once it is published; None in what waits for that."""

    network_id: Digest
    trainer: Hotkey
    window: Window
    number: int  # of this window among those learned from since the state began, from 1
    origin: Digest | None  # the checkpoint that the state began with; None until it is published, or where nothing says it
    behaviour: Digest  # manifest of the checkpoint that drew the rollouts
    reference: Digest | None  # manifest of what the KL term holds on to
    temperature: str  # of the policy that drew the rollouts, as its manifest says it
    max_tokens: int  # of that policy
    verdicts: Mapping[Hotkey, Digest]  # by validator: the bodies that were counted
    files: tuple[FileName, ...]  # accepted and looked at, in the order they came
    missing: tuple[FileName, ...]  # accepted, and not to be had
    groups: tuple[BatchMember, ...]  # learned from, in this order
    dropped: tuple[DroppedGroup, ...]  # at most MAX_DROPPED
    dropped_total: int
    without_variance: int
    settings: Mapping[str, Mapping[str, Json]]  # hyper-parameters by section; fractions as text
    machine: MachineFacts
    state_before: Digest  # `optimiser.state_digest`
    state_after: Digest
    weights_root: Digest  # of the cast of the masters after
    undone: str  # why the update was taken back, "" where it was not
    alarms: tuple[LoggedAlarm, ...]
    statistics: Mapping[str, str | int]
    previous: LogLink | None = None
    anchor: Digest | None = None  # of the state after, where one was published
    checkpoint: PublishedCheckpoint | None = None  # None: its weights come with a later one

    def digest(self) -> Digest:
        """`H("grail/training-log", body)`: what is signed, and what the next log names."""
        return log_digest(self.network_id, self.to_json())

    def to_json(self) -> dict[str, Json]:
        return {
            "version": LOG_VERSION,
            "network_id": self.network_id.hex(),
            "trainer": self.trainer.hex(),
            "window": self.window,
            "number": self.number,
            "origin": _hex(self.origin),
            "behaviour": self.behaviour.hex(),
            "reference": _hex(self.reference),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "verdicts": {validator.hex(): digest.hex() for validator, digest in sorted(self.verdicts.items())},
            "files": [file.to_json() for file in self.files],
            "missing": [file.to_json() for file in self.missing],
            "groups": [member.to_json() for member in self.groups],
            "dropped": [_dropped_json(dropped) for dropped in self.dropped],
            "dropped_total": self.dropped_total,
            "without_variance": self.without_variance,
            "settings": {name: dict(section) for name, section in self.settings.items()},
            "machine": self.machine.to_json(),
            "state_before": self.state_before.hex(),
            "state_after": self.state_after.hex(),
            "weights_root": self.weights_root.hex(),
            "undone": self.undone,
            "alarms": [alarm.to_json() for alarm in self.alarms],
            "statistics": dict(self.statistics),
            "previous": None if self.previous is None else self.previous.to_json(),
            "anchor": _hex(self.anchor),
            "checkpoint": None if self.checkpoint is None else self.checkpoint.to_json(),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$log")
        version = Node(node.value.get("version") if isinstance(node.value, Mapping) else None, f"{node.path}.version")
        if version.integer() != LOG_VERSION:
            version.refuse(f"version {version.value} is not known here (known: {LOG_VERSION})")
        m = node.members("version", *cls.__dataclass_fields__)
        window = _window(m["window"])
        verdicts = m["verdicts"].entries(MAX_VERDICTS)
        return node.build(
            lambda: cls(
                network_id=_digest(m["network_id"]),
                trainer=Hotkey(m["trainer"].raw(32)),
                window=window,
                number=m["number"].integer(1),
                origin=m["origin"].optional(_digest),
                behaviour=_digest(m["behaviour"]),
                reference=m["reference"].optional(_digest),
                temperature=m["temperature"].text(32),
                max_tokens=m["max_tokens"].integer(1, MAX_NEW_TOKENS_PROTOCOL_CAP),
                verdicts={Hotkey(Node(key, one.path).raw(32)): _digest(one) for key, one in verdicts.items()},
                files=tuple(FileName.from_json(one) for one in m["files"].items(MAX_FILES)),
                missing=tuple(FileName.from_json(one) for one in m["missing"].items(MAX_FILES)),
                groups=tuple(_member(one) for one in m["groups"].items(MAX_GROUPS)),
                dropped=tuple(_dropped(one) for one in m["dropped"].items(MAX_DROPPED)),
                dropped_total=m["dropped_total"].integer(),
                without_variance=m["without_variance"].integer(),
                settings={name: _section(section) for name, section in m["settings"].entries(MAX_SECTIONS).items()},
                machine=MachineFacts.from_json(m["machine"]),
                state_before=_digest(m["state_before"]),
                state_after=_digest(m["state_after"]),
                weights_root=_digest(m["weights_root"]),
                undone=m["undone"].text(MAX_REASON),
                alarms=tuple(LoggedAlarm.from_json(one) for one in m["alarms"].items(MAX_ALARMS)),
                statistics={name: _figure(one) for name, one in m["statistics"].entries(MAX_FIGURES).items()},
                previous=m["previous"].optional(LogLink.from_json),
                anchor=m["anchor"].optional(_digest),
                checkpoint=m["checkpoint"].optional(PublishedCheckpoint.from_json),
            )
        )

    @property
    def begins(self) -> bool:
        """Is the state before the one that a checkpoint makes, and no log's before it?"""
        return self.number == 1

    def published(
        self,
        *,
        previous: LogLink | None,
        origin: Digest | None,
        anchor: Digest | None,
        checkpoint: PublishedCheckpoint | None,
    ) -> TrainingLog:
        """With what became known when it was published."""
        return replace(self, previous=previous, origin=origin, anchor=anchor, checkpoint=checkpoint)


@dataclass(frozen=True)
class SignedLog:
    """A log and the trainer's signature over its digest."""

    log: TrainingLog
    signature: Signature = field(repr=False)

    @classmethod
    def sign(cls, log: TrainingLog, signer: Signer) -> SignedLog:
        """Raises ValueError where it is none that `decode` would read: nothing unreadable is ever signed."""
        signed = cls(log, signer.sign(log.digest()))
        cls.decode(signed.encode())
        return signed

    def verify(self, network_id: bytes, trainer: Hotkey) -> bool:
        """Is it of this network, and this trainer's?"""
        log = self.log
        return (log.network_id, log.trainer) == (network_id, trainer) and verify(trainer, log.digest(), self.signature)

    def encode(self) -> bytes:
        """The object's bytes: canonical JSON."""
        return canonical_json({"body": self.log.to_json(), "signature": self.signature.hex()})

    @classmethod
    def decode(cls, raw: bytes) -> SignedLog:
        """Inverse of `encode`: at most MAX_LOG_BYTES, and exactly the canonical ones. Errors: ValueError with the path."""
        m = parse_json(raw, most=MAX_LOG_BYTES, path="$log").members("body", "signature")
        signed = cls(TrainingLog.from_json(m["body"]), Signature(m["signature"].raw(64)))
        if signed.encode() != raw:
            raise ValueError("$log: not in canonical form (RFC 8785)")
        return signed


def log_digest(network_id: bytes, body: Mapping[str, Any]) -> Digest:
    """Of a body of any version."""
    return tagged_hash(network_id, LOG_TAG, canonical_json(body))


def digest_of_log(raw: bytes, network_id: bytes) -> Digest:
    """Of one's own log, as it lies in the bucket; also one of an earlier version. Raises ValueError."""
    body = parse_json(raw, most=MAX_LOG_BYTES, path="$log").members("body", "signature")["body"]
    if not isinstance(body.value, dict):
        body.refuse("an object is expected")
    return log_digest(network_id, body.value)


def shortened(dropped: Sequence[DroppedGroup]) -> tuple[DroppedGroup, ...]:
    """What of it a log has room for, texts cut to what its reader takes."""
    return tuple(
        replace(one, reason=one.reason[:MAX_REASON], findings=_not_accepting(one.findings)) for one in dropped[:MAX_DROPPED]
    )


def figures(values: Mapping[str, Any]) -> dict[str, str | int]:
    """Numbers with a fraction as text: canonical JSON here holds no floats. Names that begin with `_` are left out."""
    return {name: repr(one) if isinstance(one, float) else one for name, one in values.items() if not name.startswith("_")}


def _not_accepting(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.outcome is not Outcome.ACCEPT)[:MAX_DROPPED_FINDINGS]


def _dropped_json(dropped: DroppedGroup) -> dict[str, Json]:
    return {
        "hotkey": dropped.hotkey.hex(),
        "content_digest": dropped.content_digest.hex(),
        "group": dropped.group,
        "reason": dropped.reason,
        "own_fault": dropped.own_fault,
        "findings": [finding.to_json() for finding in _not_accepting(dropped.findings)],  # why, and nothing else
    }


def _dropped(node: Node) -> DroppedGroup:
    m = node.members("hotkey", "content_digest", "group", "reason", "own_fault", "findings")
    return DroppedGroup(
        hotkey=Hotkey(m["hotkey"].raw(32)),
        content_digest=_digest(m["content_digest"]),
        group=m["group"].optional(Node.integer),
        reason=m["reason"].text(MAX_REASON),
        findings=tuple(Finding.from_json(one) for one in m["findings"].items(MAX_DROPPED_FINDINGS)),
        own_fault=m["own_fault"].flag(),
    )


def _member(node: Node) -> BatchMember:
    m = node.members(*BatchMember.__dataclass_fields__)
    return BatchMember(Hotkey(m["hotkey"].raw(32)), _digest(m["content_digest"]), m["group"].integer())


def _section(node: Node) -> dict[str, Json]:
    return {name: _knob(one) for name, one in node.entries(MAX_KNOBS).items()}


def _knob(node: Node) -> Json:
    if isinstance(node.value, bool) or node.value is None:
        return node.value
    if isinstance(node.value, list | tuple):
        return [one.text(MAX_KNOB_TEXT) for one in node.items(MAX_KNOBS)]
    return node.text(MAX_KNOB_TEXT) if isinstance(node.value, str) else node.integer(-(2**53) + 1)


def _figure(node: Node) -> str | int:
    return node.text(MAX_FIGURE_TEXT) if isinstance(node.value, str) else node.integer(-(2**53) + 1)


def _digest(node: Node) -> Digest:
    return Digest(node.raw(32))


def _window(node: Node) -> Window:
    return node.build(lambda: require_window(node.integer()))


def _hex(digest: Digest | None) -> str | None:
    return None if digest is None else digest.hex()
