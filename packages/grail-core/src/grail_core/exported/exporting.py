"""From a network to an export: what validators accepted in a window, had from their buckets, verified, and written as shards.

A file is in it when validators with most of the stake that scored the window accepted it (`protocol.quorum`), as the trainer
takes it. Its bytes are hashed, opened in a process with limits, and bound to the header that its miner signed. What is not
asked: whether a verdict contradicts the beacon, which `grail-validator replay` does, and the trainer's own checks of every
rollout. One file is in memory at a time. A window's receipt is written last: killed before it, the window is gone on with at
the first file whose shard is not whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from grail_core.chain.base import Neuron
from grail_core.disk import write_atomically
from grail_core.errors import CheckpointError, GrailError, ProtocolViolationError, StorageError
from grail_core.exported.accepted import ExportSource, Heard, hear
from grail_core.exported.folder import MAX_RECEIPT_BYTES, ExportedFile, ExportFolder, Receipt
from grail_core.exported.rows import MAX_TEXT, Row
from grail_core.exported.shards import encode_shard
from grail_core.exported.texts import Texts
from grail_core.files.shared import get_file
from grail_core.files.window_file import WindowFileError
from grail_core.keys import ss58
from grail_core.model.prompts import PromptRenderer
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.quorum import accepted_digests, settled
from grail_core.protocol.reading import parse_json
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.layout import file_key
from grail_core.storage.time_limits import at_most
from grail_core.verification.window_file import Submission, bind_rows

FILE_SECONDS: Final = 600.0
"""In which a bucket has to hand over one file: 350 MiB at 0.6 MB/s."""

Tell = Callable[[str], None]
"""Told what was done, one line each, as often as something was."""


class Exporter:
    """Writes windows into one folder. Args: keep_files: the accepted files too, byte for byte."""

    def __init__(self, source: ExportSource, folder: ExportFolder, *, keep_files: bool = False, tell: Tell = lambda _: None):
        self._source, self._folder, self._keep_files, self._tell = source, folder, keep_files, tell
        self._texts = Texts(source.checkpoints)

    def window(self, window: Window) -> Receipt:
        """Export one window; what is whole already is not fetched again.

        Raises:
            ChainError: the chain does not answer, or its nodes have thrown block `window` away.
            StorageError, DiskFullError: the folder cannot be written.
        """
        before = self._whole(window)
        if before is not None:
            return before
        heard = hear(self._source, window)
        receipt = self._receipt(window, heard)
        write_atomically(self._folder.receipt_path(window), receipt.encode())
        for file in receipt.files:
            self._folder.part(window, file.hotkey).unlink(missing_ok=True)
        return receipt

    def _whole(self, window: Window) -> Receipt | None:
        """The receipt of a window of which nothing is left to be done."""
        if not self._folder.receipt_path(window).exists():
            return None
        try:
            receipt = self._folder.receipt(window)
        except ProtocolViolationError:
            return None  # damaged: it is made again
        there = all(self._is_whole(window, file) for file in receipt.files)
        return receipt if receipt.final and there else None

    def _is_whole(self, window: Window, file: ExportedFile) -> bool:
        path = self._folder.shard(window, file.hotkey)
        kept = not self._keep_files or self._folder.kept_file(file.content_digest).is_file()
        return kept and path.is_file() and path.stat().st_size == file.shard_bytes

    def _known(self, window: Window, hotkey: str, digest: Digest) -> ExportedFile | None:
        """What a process that ended before the window's receipt has left of this file, where that is whole."""
        try:
            raw = self._folder.part(window, hotkey).read_bytes()
            file = ExportedFile.from_node(parse_json(raw, most=MAX_RECEIPT_BYTES, path="$part"))
        except (OSError, ValueError, RecursionError):
            return None  # none, or half of one: the file is fetched again
        same = (file.hotkey, file.content_digest) == (hotkey, digest)
        return file if same and self._is_whole(window, file) else None

    def _receipt(self, window: Window, heard: Heard) -> Receipt:
        stake = heard.stake
        said = tuple((ss58(who), verdict.body.digest().hex(), stake[who]) for who, verdict in sorted(heard.verdicts.items()))
        if heard.is_round:
            return Receipt(window, reason="a round of gradient work, which has no rollouts", verdicts=said)
        accepted = accepted_digests(heard.verdicts, stake)
        decided = settled(heard.verdicts, stake, heard.silent.keys())
        if not accepted:
            return Receipt(window, reason=heard.why_none, final=decided, verdicts=said)
        files: list[ExportedFile] = []
        missing: list[tuple[str, str, str]] = []
        drawn_by: CheckpointManifest | None = None
        for number, (hotkey, digest) in enumerate(accepted.items()):
            self._tell(f"window {window}: file {number + 1} of {len(accepted)}")
            try:
                manifest, file = self._file(window, hotkey, digest, heard, drawn_by)
            except (CheckpointError, ProtocolViolationError, _NotHadError) as error:
                missing.append((ss58(hotkey), digest.hex(), error.what))
                continue
            drawn_by = manifest
            files.append(file)
        return Receipt(
            window,
            tuple(files),
            tuple(missing),
            final=decided and not missing,
            checkpoint="" if drawn_by is None else drawn_by.digest.hex(),
            environment="" if drawn_by is None else drawn_by.environment.env_id,
            policy=None if drawn_by is None else drawn_by.policy,
            end_token_ids=() if drawn_by is None else drawn_by.end_token_ids,
            verdicts=said,
        )

    # --- one file -----------------------------------------------------------------------------------------------------

    def _file(
        self, window: Window, hotkey: Hotkey, digest: Digest, heard: Heard, drawn_by: CheckpointManifest | None
    ) -> tuple[CheckpointManifest, ExportedFile]:
        """Raises _NotHadError, CheckpointError, ProtocolViolationError: it is not in the export, and why."""
        holders, address = heard.holders(hotkey, digest), ss58(hotkey)
        accepted_by = tuple(sorted(ss58(neuron.hotkey) for neuron in holders))
        known = self._known(window, address, digest)
        if known is not None:
            return self._texts.of(known.header.checkpoint_digest)[0], replace(known, accepted_by=accepted_by)
        data = self._fetched(holders, digest)
        submission = self._opened(data, digest, hotkey, window)
        if self._keep_files:
            write_atomically(self._folder.kept_file(digest), data)
        del data
        manifest, renderer = self._texts.of(submission.file.header.checkpoint_digest)
        if drawn_by is not None and drawn_by.digest != manifest.digest:
            raise ProtocolViolationError("it names another checkpoint than the window's other files")
        rows = _rows(submission, heard.sampled(hotkey), manifest, renderer)
        pieces = _Measured(encode_shard(rows, self._folder.about.encoding))
        write_atomically(self._folder.shard(window, address), pieces)
        file = ExportedFile(
            address,
            digest,
            len(submission.columns),
            pieces.size,
            pieces.digest,
            accepted_by,
            submission.file.header,
            submission.file.signature,
        )
        write_atomically(self._folder.part(window, address), canonical_json(file.to_json()))
        return manifest, file

    def _fetched(self, holders: list[Neuron], digest: Digest) -> bytes:
        reasons = []
        for holder in holders:
            try:
                with at_most(FILE_SECONDS):
                    store = self._source.directory.open(holder.commitment or "")
                    data = get_file(store, file_key(digest), digest, size=MAX_FILE_BYTES)
            except StorageError as error:
                reasons.append(error.what)
                continue
            if data is not None:
                return data
            reasons.append("the bytes are not those of the digest")
        raise _NotHadError("; ".join(dict.fromkeys(reasons)) or "nobody has it")

    def _opened(self, data: bytes, digest: Digest, hotkey: Hotkey, window: Window) -> Submission:
        try:
            file = self._source.open_file(data, None)
        except WindowFileError as error:
            raise ProtocolViolationError(error.what) from error
        if (file.header.hotkey, file.header.window) != (hotkey, window):
            raise ProtocolViolationError("it is a file of another miner or window")
        bound = bind_rows(file, digest, self._source.network_id)
        if not isinstance(bound, Submission):
            raise ProtocolViolationError("; ".join(finding.detail for finding in bound))
        return bound


class _NotHadError(GrailError):
    """No validator that accepted a file hands it over now."""


class _Measured:
    """Pieces as they go by, with their number of bytes and SHA-256."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self.size, self._hash = pieces, 0, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.size += len(piece)
            self._hash.update(piece)
            yield piece

    @property
    def digest(self) -> Digest:
        return Digest(self._hash.digest())


def _rows(
    submission: Submission, sampled: frozenset[tuple[int, int]], manifest: CheckpointManifest, renderer: PromptRenderer
) -> Iterator[Row]:
    """In the file's order: by group, then rollout."""
    hotkey, window = ss58(submission.hotkey), submission.file.header.window
    prompt_of_group, prompt = -1, ""
    for index in range(len(submission.columns)):
        record = submission.columns.record(index)
        if record.group != prompt_of_group:
            prompt_of_group, prompt = record.group, renderer.decode_prompt(record.prompt.tolist())[:MAX_TEXT]
        yield Row(
            window=window,
            hotkey=hotkey,
            group=record.group,
            rollout=record.rollout,
            group_id=f"{window}/{hotkey}/{record.group}",
            checkpoint=manifest.digest.hex(),
            environment=manifest.environment.env_id,
            prompt=prompt,
            completion=renderer.decode(record.completion.tolist())[:MAX_TEXT],
            prompt_ids=record.prompt,
            completion_ids=record.completion,
            logprobs=record.logprobs,
            reward=record.reward,
            success=record.success,
            truncated=int(record.completion[-1]) not in manifest.end_token_ids,
            sampled=(record.group, record.rollout) in sampled,
            rollout_digest=submission.digests[index].hex(),
            content_digest=submission.content_digest.hex(),
        )
