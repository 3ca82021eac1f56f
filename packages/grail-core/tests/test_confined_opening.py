"""A stranger's file is opened in a process of its own: whatever becomes of that one, the answer says whose fault."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grail_core.files.confined import opening
from grail_core.files.confined.opening import Confined, ConfinementError, Spent
from grail_core.files.evidence import (
    GradeEvidence,
    GradeStability,
    MinerEvidence,
    RolloutEvidence,
    read_evidence,
    write_evidence,
)
from grail_core.files.window_file import WindowFileError, read_window_file, write_window_file
from grail_core.kernel_caches import VARIABLES
from grail_core.proof.sketches import Sketches
from grail_core.proof.work import OWN, REFERENCE, ComparedRollout, Leads, ReferenceMeasurement
from grail_core.protocol import RolloutRecord, rollout_digests
from grail_core.protocol.constants import MAX_FILE_BYTES, MAX_NEW_TOKENS_PROTOCOL_CAP, MAX_PROMPT_TOKENS
from grail_core.protocol.types import Digest, Hotkey, Signature
from tooling.testing.window_files import made_header, made_rows

NETWORK = bytes(range(32))
SIGNATURE = Signature(b"\x08" * 64)
REPLACED = "import sys; sys.path += sys.argv[2:]; from grail_core.files.confined import child; "


@pytest.fixture
def spent() -> list[Spent]:
    return []


@pytest.fixture
def confined(spent: list[Spent]) -> Iterator[Confined]:
    with Confined(observe=spent.append) as opened:
        yield opened


@pytest.fixture
def data() -> bytes:
    return write_window_file(made_header(2), SIGNATURE, made_rows(1, 2))


def in_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Every child runs `code` in place of its reading of the file."""
    body = f"child._read = lambda job: exec({code!r}); child.main()"
    monkeypatch.setattr(opening, "_BOOT", REPLACED + "import os, signal, time; " + body)


def test_a_file_comes_back_as_the_reader_in_this_process_gives_it(confined: Confined, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    wanted = read_window_file(data)
    for source in (data, tmp_path / "file"):
        found = confined.open_window_file(source)
        assert (found.header, found.signature) == (wanted.header, wanted.signature)
        assert rollout_digests(NETWORK, found.table.records()) == rollout_digests(NETWORK, wanted.table.records())
    with pytest.raises(WindowFileError, match="32 rows; 16 to 16"):
        confined.open_window_file(data, rows=16)
    assert len(confined.open_window_file(data, rows=32).table) == 32


def test_evidence_comes_back_too(confined: Confined) -> None:
    assert confined.open_evidence(write_evidence([])) == []
    data = write_evidence([measured()])
    assert write_evidence(confined.open_evidence(data)) == write_evidence(read_evidence(data)) == data


def test_a_refusal_is_final_and_says_what_was_wrong(confined: Confined, data: bytes, spent: list[Spent]) -> None:
    for bad in (b"", data[:100], data + b"x", bytes(10**6)):
        with pytest.raises(WindowFileError, match="PAR1"):
            confined.open_window_file(bad)
    assert [one.outcome for one in spent] == ["refused"] * 4


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("os.abort()", "died with signal 6"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died with signal 11"),
        ("os._exit(0)", "gave an answer that is none"),
        ("os._exit(77)", "died with code 77"),
        ("raise OSError('x')", "raised 'OSError: x'"),
        ("bytearray(1 << 40)", "address space"),
        ("os.write(1, bytes(2 << 20))", "said more than"),
        ("while True: os.write(job.output, bytes(1 << 20))", "File too large"),
        ("os.write(0, b'another file')", "Operation not permitted"),
        ("os.write(1, b'{\"rows\": [[1]]}'); os._exit(0)", "gave an answer that is none"),
        ('os.write(1, b\'{"rows":1,"metadata":{},"values":[],"lengths":[]}\'); os._exit(0)', "header has 0 bytes"),
        ("os.write(1, b'[' * 100000); os._exit(0)", "gave an answer that is none"),
        ('os.write(1, b\'{"refused": "\\\\u001b[31mred"}\'); os._exit(3)', r"\?\[31mred"),
    ],
)
def test_a_child_that_ends_otherwise_three_times_condemns_the_file(
    confined: Confined, data: bytes, spent: list[Spent], monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    in_child(monkeypatch, code)
    with pytest.raises(WindowFileError, match=why):
        confined.open_window_file(data, rows=32)
    assert len(spent) in {1, 3}


def test_processor_time_without_end_is_the_files_fault(
    confined: Confined, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BASE_PROCESSOR_SECONDS", 1)
    monkeypatch.setattr(opening, "ATTEMPTS", 1)
    in_child(monkeypatch, "while True: pass")
    with pytest.raises(WindowFileError, match="1 s of processor time"):
        confined.open_window_file(data, rows=32)


def test_a_child_that_gets_no_processor_time_is_the_machines_fault(
    confined: Confined, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "WALL_SECONDS_PER_PROCESSOR_SECOND", 0.5)
    monkeypatch.setattr(opening, "ATTEMPTS", 1)
    in_child(monkeypatch, "signal.pause()")
    with pytest.raises(ConfinementError, match=r"its time was over|before it had looked"):
        confined.open_window_file(data, rows=32)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_that_nobody_here_sent_is_the_machines_fault(
    confined: Confined, data: bytes, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    in_child(monkeypatch, f"os.kill(os.getpid(), {int(number)})")
    with pytest.raises(ConfinementError, match=f"signal {int(number)}"):
        confined.open_window_file(data, rows=32)


def test_one_death_that_does_not_repeat_costs_nobody_anything(
    confined: Confined, data: bytes, spent: list[Spent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    body = f"p = {str(once)!r}; new = not os.path.exists(p); open(p, 'w').close(); new and os.abort(); child.main()"
    monkeypatch.setattr(opening, "_BOOT", REPLACED + "import os; os.write(1, child.READY); child.READY = b''; " + body)
    assert len(confined.open_window_file(data).table) == 32
    assert [one.outcome for one in spent] == ["died with signal 6", "done"]


def test_a_child_that_cannot_start_condemns_nobody(confined: Confined, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_BOOT", "import a_module_that_is_not_there")
    with pytest.raises(ConfinementError, match="before it had looked"):
        confined.open_window_file(data)


def test_no_child_starts_without_memory(confined: Confined, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "available_bytes", lambda: 2**30)
    with pytest.raises(ConfinementError, match="MiB are free"):
        confined.open_window_file(data)
    assert len(confined.open_window_file(data, rows=32).table) == 32  # a sealed number of rows needs less


def test_a_child_has_no_secret_and_no_descriptor_of_this_process(
    confined: Confined, data: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAIL_SECRET", "x")
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        said = "raise OSError(sorted(os.environ), len(set(map(int, os.listdir('/proc/self/fd'))) - {0, 1, 2, job.output}))"
        in_child(monkeypatch, said)
        with pytest.raises(WindowFileError, match="OSError: ") as refused:
            confined.open_window_file(data)
    assert f"[Errno {sorted(('LC_CTYPE', *VARIABLES))}] 1" in refused.value.what.replace("\\'", "'")
    assert "GRAIL" not in str(refused.value)


def test_many_threads_share_one_and_nothing_is_left_behind(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[Spent] = []
    results: list[int] = []
    started: list[int] = []
    listen = opening._listen

    def listening(child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, str]:
        started.append(child.pid)
        return listen(child, deadline)

    monkeypatch.setattr(opening, "_listen", listening)
    with Confined(children=2, observe=spent.append) as confined:

        def work(number: int) -> None:
            try:
                results.append(len(confined.open_window_file(data if number % 2 else data[:-1], rows=32).table))
            except WindowFileError:
                results.append(0)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [0] * 4 + [32] * 4
    with pytest.raises(ConfinementError, match="ending"):
        confined.open_window_file(data)
    assert len(started) >= 8
    for pid in started:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # no child, living or dead


def test_closing_ends_a_child_at_once(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    in_child(monkeypatch, "os.write(1, b' '); signal.pause()")
    confined, errors = Confined(), []

    def work() -> None:
        try:
            confined.open_window_file(data)
        except ConfinementError as error:
            errors.append(error.what)

    began = threading.Event()
    listen = opening._listen

    def listening(child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, str]:
        began.set()
        return listen(child, deadline)

    monkeypatch.setattr(opening, "_listen", listening)
    thread = threading.Thread(target=work)
    thread.start()
    began.wait()
    confined.close()
    thread.join()
    assert errors == ["the file was not opened: this process is ending"]


def test_a_process_that_was_forked_opens_files_of_its_own(confined: Confined, data: bytes) -> None:
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if len(confined.open_window_file(data).table) == 32 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def measured(rollouts: int = 3) -> MinerEvidence:
    rng = np.random.default_rng(0)
    positions = np.arange(5, dtype=np.int32)

    def z() -> Sketches:
        return rng.normal(size=(5, 4)).astype(np.float32)

    return MinerEvidence(
        Hotkey(b"\3" * 32),
        Digest(b"\4" * 32),
        tuple(
            RolloutEvidence(
                group=number,
                rollout=number,
                grade=GradeEvidence(0.5, bool(number % 2), GradeStability.STABLE),
                positions=positions,
                z=z(),
                logprob=rng.normal(size=5).astype(np.float32),
                margin=rng.random(5).astype(np.float32),
                reference=ReferenceMeasurement(z(), *(rng.random(5).astype(np.float32) for _ in range(5))),
                compared=ComparedRollout(
                    tuple(positions.tolist()),
                    {name: z() for name in (REFERENCE, OWN, "int8")},
                    {"int8": Leads(rng.random(5).astype(np.float32), rng.random(5).astype(np.float32), positions)},
                    *(rng.random(5).astype(np.float32) for _ in range(2)),
                )
                if number % 2
                else None,
            )
            for number in range(rollouts)
        ),
        "bf16-sdpa-cpu-transformers/1",
        2,
        64,
    )


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_the_largest_honest_file_takes_a_quarter_of_the_limits(tmp_path: Path) -> None:
    """6,000 rollouts of as many tokens as 350 MiB hold, and one of as many rows of the longest answer as fit."""
    for name, rows, completion in (("rows", 6_000, 4_240), ("length", 3_120, MAX_NEW_TOKENS_PROTOCOL_CAP)):
        spent: list[Spent] = []
        path = tmp_path / name
        data = write_window_file(made_header(rows // 16), SIGNATURE, list(largest(rows, completion)))
        assert 0.85 * MAX_FILE_BYTES < len(data) <= MAX_FILE_BYTES
        path.write_bytes(data)
        with Confined(observe=spent.append) as confined:
            assert len(confined.open_window_file(path, rows=rows).table) == rows
        print(name, len(data), spent)
        seconds = opening.BASE_PROCESSOR_SECONDS + len(data) // opening.BYTES_PER_PROCESSOR_SECOND
        assert spent[0].processor_seconds * 4 < seconds
        assert (spent[0].peak_bytes - len(data)) * 4 < opening.BASE_ADDRESS_SPACE


def largest(rows: int, completion: int) -> Iterator[RolloutRecord]:
    """Rollouts whose numbers compress as a real model's do: ids below 2^17, log-probabilities and sketches of full entropy."""
    rng = np.random.default_rng(0)
    prompt = min(MAX_PROMPT_TOKENS, 300)
    for index in range(rows):
        yield RolloutRecord(
            group=index // 16,
            rollout=index % 16,
            tokens=rng.integers(0, 151_000, prompt + completion).astype(np.int32),
            prompt_length=prompt,
            logprobs=-rng.exponential(0.5, completion).astype(np.float32) - np.float32(1e-6),
            sketches=np.rint(4096 * rng.normal(size=4 * (completion + 1))).clip(-32767, 32767).astype("<i2").tobytes(),
            reward=float(rng.random()),
            success=bool(rng.integers(2)),
        )
