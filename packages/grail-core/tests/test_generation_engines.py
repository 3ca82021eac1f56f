"""Generators over an engine's HTTP draw what the protocol says, with the weights they were told to serve, or nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from grail_core.errors import EngineError, GrailError, ProtocolViolationError
from grail_core.generation.answers import EngineAnswer
from grail_core.generation.base import Drawn
from grail_core.generation.options import EngineOptions
from grail_core.generation.remote import RemoteGenerator
from grail_core.generation.row_requests import TRIES
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import Fault, Schedule
from tooling.testing.engine_double.web import Call, Reply, Route, Routes
from tooling.testing.engine_double.weights import digest_of
from tooling.testing.engine_weights import END, TinyCheckpoint, by_index, requests

Flavour = Literal["sglang", "vllm"]
GENERATE = {"sglang": "/generate", "vllm": "/inference/v1/generate"}
UPDATE = {"sglang": "/update_weights_from_disk", "vllm": "/collective_rpc"}
ASKED = requests(rows=2)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return TinyCheckpoint.save(tmp_path_factory.mktemp("old") / "checkpoint", seed=5)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return TinyCheckpoint.save(tmp_path_factory.mktemp("new") / "checkpoint", seed=6)


@pytest.fixture(params=["sglang", "vllm"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


@pytest.fixture
def double(flavour: Flavour, old: TinyCheckpoint) -> Iterator[EngineDouble]:
    with EngineDouble.of(flavour, old.folder) as made:
        yield made


@pytest.fixture
def generator(flavour: Flavour, double: EngineDouble, old: TinyCheckpoint) -> Iterator[RemoteGenerator]:
    made = generator_of(flavour, double.url)
    made.serve(old.weights())
    yield made
    made.close()


def generator_of(flavour: Flavour, url: str, *, concurrent: int = 4, api_key: str | None = None) -> RemoteGenerator:
    kind = SglangGenerator if flavour == "sglang" else VllmGenerator
    options = EngineOptions(flavour, url=url, max_concurrent=concurrent)
    return kind(url, options, numerics_class="of-a-double", api_key=api_key, retry_s=0.0)


def never() -> bool:
    return False


def after(double: EngineDouble, act: Callable[[], None]) -> threading.Thread:
    """A thread that acts once four rows are being drawn."""

    def wait_and_act() -> None:
        double.engine.until(lambda: len(double.engine.running) == 4)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def times_asked(double: EngineDouble, path: str) -> int:
    return sum(asked.partition("?")[0] == path for _, asked in double.server.asked)


# What is drawn.


@pytest.mark.parametrize("policy", [GenerationPolicy(6), GenerationPolicy(6, temperature=0.7, top_p=0.8, top_k=9)])
def test_the_tokens_are_those_of_the_in_process_generator(
    generator: RemoteGenerator, old: TinyCheckpoint, policy: GenerationPolicy
) -> None:
    asked = requests(groups=3, rows=4)
    generator.serve(old.weights(policy))
    found = by_index(list(generator.generate(asked, never)))
    assert found == old.draw(asked, policy)
    assert {tokens[-1] in END for tokens in found.values()} == {True, False}  # some rows end, some are cut


def test_nothing_is_left_to_the_folder_s_defaults(flavour: Flavour, tmp_path: Path) -> None:
    hostile = TinyCheckpoint.save(tmp_path / "hostile", seed=5)
    want = hostile.draw(ASKED)
    says: dict[str, Any] = {
        "do_sample": True,
        "temperature": 0.1,
        "top_k": 1,
        "top_p": 0.01,
        "min_p": 0.9,
        "repetition_penalty": 2.0,
    }
    says |= {"eos_token_id": list(range(96)), "max_new_tokens": 1, "forced_bos_token_id": 9, "bad_words_ids": [[20]]}
    (hostile.folder / "generation_config.json").write_text(json.dumps(says))
    with EngineDouble.of(flavour, hostile.folder) as double:
        generator = generator_of(flavour, double.url)
        generator.serve(hostile.weights())
        assert by_index(list(generator.generate(ASKED, never))) == want
        generator.close()


def test_the_environment_s_proxy_is_not_asked(
    flavour: Flavour, double: EngineDouble, old: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    generator = generator_of(flavour, double.url)
    generator.serve(old.weights())
    generator.close()


def test_a_policy_with_a_repetition_penalty_is_refused_before_anything_is_touched(
    generator: RemoteGenerator, double: EngineDouble, old: TinyCheckpoint
) -> None:
    before = len(double.server.asked)
    with pytest.raises(ProtocolViolationError, match="repetition penalty"):
        generator.serve(old.weights(GenerationPolicy(6, repetition_penalty=1.1)))
    assert generator.version == old.version
    assert len(double.server.asked) == before


# Requests in flight.


def test_requests_in_flight_are_bounded_and_so_are_rows_that_nobody_takes(
    generator: RemoteGenerator, flavour: Flavour, double: EngineDouble
) -> None:
    asked = requests(groups=10, rows=4)
    rows = generator.generate(asked, never)
    taken = [next(rows)]
    double.engine.until(lambda: len(double.engine.finished) >= 1 + 4)  # four wait to be taken, and no more are asked for
    assert times_asked(double, GENERATE[flavour]) <= 1 + 4 + 4
    taken += rows
    assert len(by_index(taken)) == len(asked)
    assert times_asked(double, GENERATE[flavour]) >= len(asked)


def test_a_finished_row_is_there_while_others_are_being_drawn(generator: RemoteGenerator, double: EngineDouble) -> None:
    double.faults.add(Fault("stall", times=1, tokens=1))
    rows = generator.generate(ASKED, never)
    first = [next(rows) for _ in range(len(ASKED) - 1)]
    assert len(by_index(first)) == len(ASKED) - 1
    rows.close()  # type: ignore[attr-defined]
    double.engine.until(lambda: not double.engine.busy())


def test_at_the_deadline_the_iterator_ends_and_the_engine_is_free(generator: RemoteGenerator, double: EngineDouble) -> None:
    double.faults.add(Fault("stall", times=-1, tokens=2))
    over = threading.Event()
    waker = after(double, over.set)
    assert list(generator.generate(ASKED, over.is_set)) == []
    waker.join()
    double.engine.until(lambda: not double.engine.busy())
    double.faults.clear()
    assert len(list(generator.generate(ASKED, never))) == len(ASKED)


def test_closing_from_another_thread_ends_everything(generator: RemoteGenerator, double: EngineDouble) -> None:
    double.faults.add(Fault("stall", times=-1, tokens=2))
    closer = after(double, generator.close)
    assert list(generator.generate(ASKED, never)) == []
    closer.join()
    double.engine.until(lambda: not double.engine.busy())
    assert not [thread for thread in threading.enumerate() if thread.name == "grail-engine-http"]
    with pytest.raises(EngineError, match="closed"):
        list(generator.generate(ASKED, never))
    generator.close()


# Answers that are none.


@pytest.mark.parametrize(
    "fault",
    [
        Fault("error_500", times=2),
        Fault("loading_503", times=2),
        Fault("half_response", times=2),
        Fault("no_response", times=2),
        Fault("invalid_json", times=2),
        Fault("huge_body", times=1),
        Fault("too_few_tokens", times=2, tokens=1),
        Fault("foreign_ids", times=2),
    ],
    ids=lambda fault: fault.kind,
)
def test_what_passes_is_asked_for_again_and_changes_no_token(
    generator: RemoteGenerator, double: EngineDouble, old: TinyCheckpoint, fault: Fault
) -> None:
    double.faults.add(fault)
    assert by_index(list(generator.generate(ASKED, never))) == old.draw(ASKED)
    assert len(double.faults.struck) == fault.times


def test_another_requests_answer_is_no_rows_of_ours_though_the_prompt_is_the_same(
    flavour: Flavour, double: EngineDouble, old: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_of(flavour, double.url, concurrent=1)
    generator.serve(old.weights())
    ask, answers = generator._ask_row, list[EngineAnswer]()

    async def crossed(*asked: Any) -> EngineAnswer:
        answers.append(await ask(*asked))
        return answers[0] if len(answers) == 2 else answers[-1]

    monkeypatch.setattr(generator, "_ask_row", crossed)
    rows = requests(groups=1, rows=4)
    assert by_index(list(generator.generate(rows, never))) == old.draw(rows)
    assert len(answers) == len(rows) + 1  # the one that was crossed was asked for again
    generator.close()


def test_a_row_that_cannot_be_had_costs_no_other(flavour: Flavour, double: EngineDouble, old: TinyCheckpoint) -> None:
    generator = generator_of(flavour, double.url, concurrent=1)
    generator.serve(old.weights())
    double.faults.add(Fault("error_500", times=TRIES))
    want = old.draw(ASKED)
    del want[0]
    assert by_index(list(generator.generate(ASKED, never))) == want
    generator.close()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault("error_500", times=-1), "nothing usable"),
        (Fault("invalid_json", times=-1), "nothing usable"),
        (Fault("redirect", times=-1, value="http://127.0.0.1:9/"), "refuses requests: HTTP 307"),
        (Fault("dies_in_generation", tokens=1), "nothing usable"),
        (Fault("too_few_tokens", times=-1, tokens=1), r"ends rows too early|nothing usable"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_an_engine_that_is_gone_or_is_none_ends_the_batch(
    generator: RemoteGenerator, double: EngineDouble, fault: Fault, why: str
) -> None:
    double.faults.add(fault)
    with pytest.raises(EngineError, match=why) as failed:
        list(generator.generate(ASKED, never))
    assert failed.value.where == double.url
    assert failed.value.hint


def test_another_key_is_said_to_be_one(flavour: Flavour, old: TinyCheckpoint) -> None:
    with EngineDouble.of(flavour, old.folder, "--api-key", "right") as double:
        right, wrong = (generator_of(flavour, double.url, api_key=key) for key in ("right", "wrong"))
        right.serve(old.weights())
        if flavour == "sglang":
            with pytest.raises(EngineError, match="401"):
                wrong.serve(old.weights())
        else:  # vLLM does not guard what controls it
            wrong.serve(old.weights())
            rows = wrong.generate(ASKED, never)
            with pytest.raises(EngineError, match="401") as failed:
                next(rows)
            assert "key" in failed.value.hint
            assert "right" not in str(failed.value)
        assert len(list(right.generate(ASKED, never))) == len(ASKED)
        right.close()
        wrong.close()


# Weights.


def test_nothing_is_drawn_before_weights_are_served(flavour: Flavour, double: EngineDouble) -> None:
    generator = generator_of(flavour, double.url)
    assert generator.version is None
    with pytest.raises(EngineError, match="no weights"):
        generator.generate(ASKED, never)
    generator.close()


def test_a_roll_brings_engine_label_and_tokens_to_the_new_checkpoint(
    generator: RemoteGenerator, flavour: Flavour, double: EngineDouble, old: TinyCheckpoint, new: TinyCheckpoint
) -> None:
    list(generator.generate(ASKED, never))  # its prompts are in the engine's cache, of the old weights
    generator.serve(new.weights())
    assert generator.version == double.engine.label == new.version
    assert double.engine.digest() == digest_of(new.model())
    assert by_index(list(generator.generate(ASKED, never))) == new.draw(ASKED)
    rolls = times_asked(double, UPDATE[flavour])
    generator.serve(new.weights())
    assert times_asked(double, UPDATE[flavour]) == rolls


def test_a_server_that_was_just_started_need_not_load_twice(flavour: Flavour, old: TinyCheckpoint, new: TinyCheckpoint) -> None:
    flags = ("--weight-version", old.version) if flavour == "sglang" else ()
    with EngineDouble.of(flavour, old.folder, *flags) as double:
        generator = generator_of(flavour, double.url)
        if flavour == "sglang":
            with pytest.raises(EngineError, match="other weights"):
                generator.adopt(new.weights())
            assert generator.version is None
        generator.adopt(old.weights())
        assert times_asked(double, UPDATE[flavour]) == 0
        assert by_index(list(generator.generate(ASKED, never))) == old.draw(ASKED)
        generator.close()


def test_an_answer_of_other_weights_ends_the_batch_and_the_trust(
    generator: RemoteGenerator, double: EngineDouble, old: TinyCheckpoint
) -> None:
    double.faults.add(Fault("wrong_version", value="f" * 64))
    drawn: list[Drawn] = []
    with pytest.raises(EngineError, match="other weights"):
        drawn.extend(generator.generate(ASKED, never))
    assert generator.version is None
    with pytest.raises(EngineError, match="no weights"):
        generator.generate(ASKED, never)
    generator.serve(old.weights())
    assert by_index(list(generator.generate(ASKED, never))) == old.draw(ASKED)


def test_a_server_that_was_started_again_draws_nothing_before_it_is_rolled(
    flavour: Flavour, old: TinyCheckpoint, new: TinyCheckpoint
) -> None:
    with EngineDouble.of(flavour, old.folder) as double:
        generator = generator_of(flavour, double.url)
        generator.serve(new.weights())
        port = double.url.rpartition(":")[2]
    with EngineDouble.of(flavour, old.folder, "--port", port) as again:
        with pytest.raises(EngineError, match="does not serve"):
            list(generator.generate(ASKED, never))
        assert generator.version is None
        generator.serve(new.weights())
        assert by_index(list(generator.generate(ASKED, never))) == new.draw(ASKED)
        assert again.engine.label == new.version
        generator.close()


ROLL_FAULTS = [
    Fault("update_refused"),
    Fault("update_torn"),
    Fault("update_then_error"),
    Fault("label_only"),
    Fault("dies_in_update"),
    Fault("no_response", on="update"),
    Fault("dies", on="update"),
    Fault("error_500", on="info", times=-1),
]
MORE_ROLL_FAULTS = [
    *(Fault("error_500", on=on) for on in ("pause", "update", "resume")),
    *(Fault("no_response", on=on) for on in ("pause", "resume")),
    Fault("half_response", on="update"),
    Fault("redirect", on="update", value="http://127.0.0.1:9/"),
    Fault("huge_body", on="update"),
]
OF_VLLM = [Fault("flush_refused"), Fault("label_refused")]
"""SGLang puts the label on and flushes as part of its update."""


@pytest.mark.parametrize(
    "fault",
    [*ROLL_FAULTS, *OF_VLLM, *(pytest.param(fault, marks=pytest.mark.heavy) for fault in MORE_ROLL_FAULTS)],
    ids=lambda fault: f"{fault.kind}-{fault.on}",
)
def test_a_roll_that_fails_leaves_a_version_that_is_true_or_none(
    generator: RemoteGenerator, flavour: Flavour, double: EngineDouble, old: TinyCheckpoint, new: TinyCheckpoint, fault: Fault
) -> None:
    if flavour == "sglang" and fault in OF_VLLM:
        pytest.skip("SGLang has no request of its own for it")
    list(generator.generate(ASKED, never))
    double.faults.add(fault)
    with pytest.raises(EngineError) as failed:
        generator.serve(new.weights())
    assert failed.value.where == double.url
    held = {None: None, old.version: old, new.version: new}[generator.version]
    double.faults.clear()
    if held is None:
        with pytest.raises(EngineError, match="no weights"):
            generator.generate(ASKED, never)
    else:
        assert double.engine.digest() == digest_of(held.model())
        assert by_index(list(generator.generate(ASKED, never))) == held.draw(ASKED)
    if fault.kind not in ("dies", "dies_in_update"):  # the next try makes good whatever was left
        generator.serve(new.weights())
        assert by_index(list(generator.generate(ASKED, never))) == new.draw(ASKED)


def test_a_server_started_again_during_a_roll_is_not_taken_for_what_it_is_not(
    flavour: Flavour, old: TinyCheckpoint, new: TinyCheckpoint
) -> None:
    """As it looks from outside: the update says yes, and what answers then is a fresh process with its first folder."""

    def restarted(double: EngineDouble) -> Routes:
        def update(_: Call) -> Reply:
            double.engine.relabel("default")
            double.engine.load(old.folder)
            return Reply.json({"success": True, "message": "", "num_paused_requests": 0, "results": [None]})

        return {("POST", UPDATE[flavour]): Route("update", update)}

    setting = EngineDouble.of(flavour, old.folder)
    setting.close()
    with EngineDouble(setting.setting, Schedule(), more_routes=restarted) as double:
        generator = generator_of(flavour, double.url)
        with pytest.raises(EngineError):
            generator.serve(new.weights())
        assert generator.version is None
        assert double.engine.label != new.version
        generator.close()


def test_rows_of_before_a_roll_are_not_handed_over_after_it(generator: RemoteGenerator, new: TinyCheckpoint) -> None:
    rows = generator.generate(ASKED, never)
    next(rows)
    generator.serve(new.weights())
    with pytest.raises(EngineError, match=r"since these rows were asked for|serves other weights"):
        list(rows)
    assert generator.version == new.version
    assert by_index(list(generator.generate(ASKED, never))) == new.draw(ASKED)


def test_closing_from_another_thread_ends_a_roll(flavour: Flavour, old: TinyCheckpoint) -> None:
    asked, over = threading.Event(), threading.Event()

    def stuck(_: EngineDouble) -> Routes:
        def update(_: Call) -> Reply:
            asked.set()
            over.wait()
            return Reply(500)

        return {("POST", UPDATE[flavour]): Route("update", update)}

    setting = EngineDouble.of(flavour, old.folder)
    setting.close()
    with EngineDouble(setting.setting, Schedule(), more_routes=stuck) as double:
        generator = generator_of(flavour, double.url)

        def close_when_asked() -> None:
            asked.wait()
            generator.close()

        closer = threading.Thread(target=close_when_asked)
        closer.start()
        with pytest.raises(EngineError, match="closed"):
            generator.serve(old.weights())
        closer.join()
        over.set()
        assert generator.version is None


def test_weights_that_do_not_exist_cost_no_engine(generator: RemoteGenerator, old: TinyCheckpoint, tmp_path: Path) -> None:
    absent = TinyCheckpoint(tmp_path / "absent", "e" * 64)
    with pytest.raises(GrailError):
        generator.serve(absent.weights())
    generator.serve(old.weights())
    assert by_index(list(generator.generate(ASKED, never))) == old.draw(ASKED)
