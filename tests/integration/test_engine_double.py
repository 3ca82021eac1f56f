"""The double behaves as the engines do where that can hurt a client, and goes wrong as its schedule says."""

from __future__ import annotations

import http.client
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import KINDS, Fault, Schedule
from tooling.testing.engine_double.process import EngineProcess, pose
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID, save_byte_model

POLICY = GenerationPolicy(12, temperature=0.8, top_p=0.95, top_k=50)
PROMPTS = ([1, 2, 3], [1, 2, 3], [5, 6, 7, 8, 9], [9])
SEEDS = (11, 2**63 - 5, 13, 0)
PROCESSOR = json.dumps({"callable": b"cgrail_seeded_sampling\nGrailCustomLogitProcessor\n.".hex()})
EVERY = ("sglang", "vllm")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of one model."""
    base = tmp_path_factory.mktemp("models")
    return save_byte_model(base / "first", seed=3), save_byte_model(base / "second", seed=4)


@pytest.fixture(params=EVERY)
def double(request: pytest.FixtureRequest, folders: tuple[Path, Path]) -> Iterator[EngineDouble]:
    with EngineDouble.of(request.param, folders[0], label="first") as running:
        yield running


def ask(url: str, body: Any = None, *, method: str = "POST", key: str | None = None) -> tuple[int, Any]:
    """Status and JSON (or text) of one answer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if method == "GET" else json.dumps({} if body is None else body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            status, raw = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, raw = error.code, error.read()
    try:
        return status, json.loads(raw)
    except ValueError:
        return status, raw.decode()


def keys(seed: int, policy: GenerationPolicy = POLICY) -> dict[str, Any]:
    named = {"grail_temperature": policy.temperature, "grail_top_k": policy.top_k, "grail_top_p": policy.top_p}
    return {"grail_seed": str(seed), **named}


def body(flavour: str, prompt: list[int], seed: int, tokens: int = POLICY.max_tokens, **more: Any) -> dict[str, Any]:
    """One seeded request with every value in it."""
    if flavour == "sglang":
        sampling = {"temperature": 0, "max_new_tokens": tokens, "custom_params": keys(seed)}
        return {"input_ids": prompt, "sampling_params": sampling, "custom_logit_processor": PROCESSOR, **more}
    sampling = {"temperature": 0, "repetition_penalty": 1.0, "max_tokens": tokens, "vllm_xargs": keys(seed)}
    return {"prompt": prompt, **sampling, "return_token_ids": True, "return_weight_versions": True, **more}


def path(flavour: str) -> str:
    return "/generate" if flavour == "sglang" else "/v1/completions"


def row(flavour: str, answer: Any) -> tuple[list[int], str, list[dict[str, Any]]]:
    """Tokens, finish reason and spans of versions."""
    if flavour == "sglang":
        meta = answer["meta_info"]
        return answer["output_ids"], meta["finish_reason"]["type"], meta.get("weight_versions", [])
    choice = answer["choices"][0]
    return choice["token_ids"], choice["finish_reason"], choice["weight_versions"]


def draw(double: EngineDouble, prompt: list[int], seed: int, **more: Any) -> tuple[list[int], str, list[dict[str, Any]]]:
    flavour = double.setting.engine.flavour
    status, answer = ask(double.url + path(flavour), body(flavour, prompt, seed, **more))
    assert status == 200, answer
    return row(flavour, answer)


def proper(folder: Path, policy: GenerationPolicy = POLICY) -> list[list[int]]:
    """What the network's own generator draws for PROMPTS and SEEDS."""
    generator = HfGenerator(PolicyModel.load(folder, dtype="float32"), policy, frozenset({END_TOKEN_ID}))
    requests = [GenerationRequest(tuple(prompt), seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    return [list(completion.tokens) for completion in generator.generate(requests)]


def update(double: EngineDouble, folder: Path, label: str, *, flush: bool = True) -> tuple[int, Any]:
    """What a client calls between its pause and its resume."""
    if double.setting.engine.flavour == "sglang":
        value = {"model_path": str(folder), "weight_version": label, "flush_cache": flush}
        return ask(double.url + "/update_weights_from_disk", value)
    reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
    answer = ask(double.url + "/collective_rpc", reload)
    ask(double.url + "/update_weight_version", {"new_version": label})
    if flush:
        ask(double.url + "/reset_prefix_cache")
    return answer


def test_rows_that_are_decoded_together_have_the_tokens_of_the_network(
    double: EngineDouble, folders: tuple[Path, Path]
) -> None:
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(lambda one: draw(double, *one)[0], zip(PROMPTS, SEEDS, strict=True)))
    assert rows == proper(folders[0])


def test_a_batch_in_one_sglang_request_has_a_seed_for_every_row(folders: tuple[Path, Path]) -> None:
    with EngineDouble.of("sglang", folders[0]) as double:
        sampling = [body("sglang", [1], seed)["sampling_params"] for seed in SEEDS]
        value = {"input_ids": PROMPTS, "sampling_params": sampling, "custom_logit_processor": PROCESSOR, "rid": "group"}
        _, answers = ask(double.url + "/generate", value)
        assert [answer["output_ids"] for answer in answers] == proper(folders[0])
        assert [answer["meta_info"]["id"] for answer in answers] == [f"group_{index}" for index in range(len(PROMPTS))]


def test_prompts_of_one_vllm_request_share_its_seed_and_come_out_as_clones(folders: tuple[Path, Path]) -> None:
    with EngineDouble.of("vllm", folders[0]) as double:
        _, answer = ask(double.url + "/v1/completions", body("vllm", [[1, 2, 3], [1, 2, 3]], 11))  # type: ignore[list-item]
        first, second = (choice["token_ids"] for choice in answer["choices"])
        assert first == second


def test_tokens_in_tokens_out_is_the_same_row_and_needs_its_switch(folders: tuple[Path, Path]) -> None:
    sampling = {"temperature": 0, "max_tokens": POLICY.max_tokens, "extra_args": keys(SEEDS[0])}
    value = {"token_ids": PROMPTS[0], "sampling_params": sampling}
    with EngineDouble.of("vllm", folders[0]) as double:
        _, answer = ask(double.url + "/inference/v1/generate", value)
        assert answer["choices"][0]["token_ids"] == proper(folders[0])[0]
    with EngineDouble.of("vllm", folders[0], plugin=False) as double:
        assert ask(double.url + "/inference/v1/generate", value)[0] == 403


def test_without_keys_temperature_nought_is_greedy_and_no_seed_repeats_another_temperature(folders: tuple[Path, Path]) -> None:
    with EngineDouble.of("sglang", folders[0]) as double:
        greedy = {"input_ids": [1, 2], "sampling_params": {"temperature": 0, "max_new_tokens": 8}}
        assert ask(double.url + "/generate", greedy)[1]["output_ids"] == ask(double.url + "/generate", greedy)[1]["output_ids"]
        own = {"input_ids": [1, 2], "sampling_params": {"sampling_seed": 5, "max_new_tokens": 24}}
        drawn = [tuple(ask(double.url + "/generate", own)[1]["output_ids"]) for _ in range(3)]
        assert len(set(drawn)) == 3  # SGLang ignores the seed outside its deterministic mode


def test_sglangs_deterministic_mode_draws_as_the_network_does_where_nothing_is_cut_off(folders: tuple[Path, Path]) -> None:
    plain = GenerationPolicy(12, temperature=0.8)
    with EngineDouble.of("sglang", folders[0], "--enable-deterministic-inference", plugin=False) as double:
        sampling = [{"temperature": 0.8, "max_new_tokens": 12, "sampling_seed": seed} for seed in SEEDS]
        _, answers = ask(double.url + "/generate", {"input_ids": PROMPTS, "sampling_params": sampling})
        assert [answer["output_ids"] for answer in answers] == proper(folders[0], plain)


def test_keys_without_the_plug_in_are_nobodys(folders: tuple[Path, Path]) -> None:
    with EngineDouble.of("vllm", folders[0], plugin=False) as double:
        assert draw(double, PROMPTS[0], 1)[0] == draw(double, PROMPTS[0], 2)[0]  # greedy
    with EngineDouble.of("sglang", folders[0], plugin=False) as double:
        status, answer = ask(double.url + "/generate", body("sglang", [1], 1))
        assert (status, "--enable-custom-logit-processor" in str(answer)) == (400, True)


def test_what_a_request_leaves_out_is_the_folders_in_vllm_and_the_engines_in_sglang(tmp_path: Path) -> None:
    folder = save_byte_model(tmp_path / "hostile", seed=3)
    hostile = {"temperature": 0.0, "repetition_penalty": 1.9, "max_new_tokens": 3, "eos_token_id": list(range(64))}
    (folder / "generation_config.json").write_text(json.dumps(hostile))
    with EngineDouble.of("vllm", folder) as double:
        whole = body("vllm", PROMPTS[2], 13, ignore_eos=True)
        assert row("vllm", ask(double.url + "/v1/completions", whole)[1])[0] == proper(folder)[2]
        less = {name: value for name, value in whole.items() if name != "repetition_penalty"}
        assert row("vllm", ask(double.url + "/v1/completions", less)[1])[0] != proper(folder)[2]
    with EngineDouble.of("sglang", folder) as double:
        short = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 200, "temperature": 1.0}}
        assert ask(double.url + "/generate", short)[1]["meta_info"]["finish_reason"]["type"] == "stop"
        endless = {"input_ids": [1, 2, 3], "sampling_params": {"temperature": 1.0, "ignore_eos": True, "stop_token_ids": [1]}}
        assert len(ask(double.url + "/generate", endless)[1]["output_ids"]) == 128  # its own default, without any end


@pytest.mark.parametrize(
    ("flavour", "change", "status"),
    [
        ("sglang", {"input_ids": None}, 400),
        ("sglang", {"input_ids": ["a"]}, 400),
        ("sglang", {"input_ids": [1] * 1024}, 400),
        ("sglang", {"sampling_params": {"max_new_tokens": 1023}}, 400),
        ("sglang", {"sampling_params": {"top_p": 0}}, 400),
        ("sglang", {"sampling_params": {"max_tokens": 3}}, 500),
        ("vllm", {"prompt": None}, 400),
        ("vllm", {"prompt": [257]}, 400),
        ("vllm", {"prompt": [1] * 1024}, 400),
        ("vllm", {"model": "another"}, 404),
        ("vllm", {"vllm_xargs": {"grail_seed": 5}}, 400),
        ("vllm", {"seed": 2**63}, 400),
    ],
)
def test_a_request_that_an_engine_does_not_take_is_answered_as_it_answers(
    flavour: Any, change: dict[str, Any], status: int, folders: tuple[Path, Path]
) -> None:
    with EngineDouble.of(flavour, folders[0]) as double:
        value = {**body(flavour, [1, 2], 1), **change}
        assert ask(double.url + path(flavour), value)[0] == status


def test_without_the_key_nothing_is_answered_but_health(folders: tuple[Path, Path]) -> None:
    for flavour in EVERY:
        with EngineDouble.of(flavour, folders[0], "--api-key", "secret") as double:  # type: ignore[arg-type]
            value = body(flavour, [1, 2], 1)
            assert [ask(double.url + path(flavour), value, key=key)[0] for key in (None, "wrong", "secret")] == [401, 401, 200]
            assert ask(double.url + "/health", method="GET")[0] == 200


def test_a_row_in_flight_ends_as_aborted_with_what_it_has(double: EngineDouble) -> None:
    flavour = double.setting.engine.flavour
    double.engine.hold(3)
    with ThreadPoolExecutor() as pool:
        drawn = pool.submit(draw, double, PROMPTS[0], SEEDS[0])
        double.engine.until(lambda: double.engine.steps == 3)
        if flavour == "sglang":
            ask(double.url + "/abort_request", {"abort_all": True})
            double.engine.allow(1)  # an aborted row draws once more
        else:
            ask(double.url + "/abort_requests")
        tokens, finish, _ = drawn.result()
    assert (len(tokens), finish) == (4 if flavour == "sglang" else 3, "abort")


def test_during_a_pause_sglang_keeps_new_requests_waiting_and_vllm_refuses_them(double: EngineDouble) -> None:
    flavour = double.setting.engine.flavour
    if flavour == "vllm":
        ask(double.url + "/pause?mode=abort")
        assert ask(double.url + "/v1/completions", body("vllm", [1], 1))[0] == 503
        assert ask(double.url + "/is_paused", method="GET")[1] == {"is_paused": True}
        ask(double.url + "/resume")
        assert ask(double.url + "/v1/completions", body("vllm", [1], 1))[0] == 200
        return
    ask(double.url + "/pause_generation", {"mode": "abort"})
    assert ask(double.url + "/health", method="GET")[0] == 503
    with ThreadPoolExecutor() as pool:
        drawn = pool.submit(draw, double, PROMPTS[0], SEEDS[0])
        update(double, double.setting.engine.folder, "second")
        assert double.engine.steps == 0
        ask(double.url + "/continue_generation")
        assert drawn.result()[2] == [{"version": "second", "start": 0, "end": 12}]


def test_weights_that_change_under_a_row_make_it_a_mixture_and_its_spans_say_so(
    double: EngineDouble, folders: tuple[Path, Path]
) -> None:
    pause, resume = {"sglang": ("/pause_generation", "/continue_generation"), "vllm": ("/pause?mode=keep", "/resume")}[
        double.setting.engine.flavour
    ]
    double.engine.hold(5)
    with ThreadPoolExecutor() as pool:
        drawn = pool.submit(draw, double, PROMPTS[2], SEEDS[2])
        double.engine.until(lambda: double.engine.steps == 5)
        ask(double.url + pause, {"mode": "in_place"})
        update(double, folders[1], "second", flush=False)
        ask(double.url + resume)
        double.engine.run_freely()
        tokens, _, spans = drawn.result()
    assert spans == [{"version": "first", "start": 0, "end": 5}, {"version": "second", "start": 5, "end": 12}]
    assert tokens[:5] == proper(folders[0])[2][:5]
    assert tokens not in (proper(folders[0])[2], proper(folders[1])[2])


def test_a_prefix_cache_that_is_not_flushed_spoils_rows_of_the_next_weights(
    double: EngineDouble, folders: tuple[Path, Path]
) -> None:
    draw(double, PROMPTS[2], SEEDS[2])
    update(double, folders[1], "second", flush=False)
    spoilt, _, spans = draw(double, PROMPTS[2], SEEDS[2])
    assert spans == [{"version": "second", "start": 0, "end": 12}]  # the label is right all the same
    update(double, folders[1], "second")
    assert draw(double, PROMPTS[2], SEEDS[2])[0] == proper(folders[1])[2] != spoilt


def test_a_client_that_hangs_up_ends_its_row(double: EngineDouble) -> None:
    double.engine.hold(2)
    connection = http.client.HTTPConnection(double.url.removeprefix("http://"))
    flavour = double.setting.engine.flavour
    connection.request("POST", path(flavour), json.dumps(body(flavour, [1, 2], 1)), {"Content-Type": "application/json"})
    double.engine.until(lambda: double.engine.steps == 2)
    connection.close()
    double.engine.run_freely()
    double.engine.until(lambda: not double.engine.busy())
    assert ask(double.url + "/health", method="GET")[0] == 200


def test_streamed_rows_add_up_to_the_row(double: EngineDouble, folders: tuple[Path, Path]) -> None:
    flavour = double.setting.engine.flavour
    value = json.dumps(body(flavour, PROMPTS[0], SEEDS[0], stream=True)).encode()
    with urllib.request.urlopen(urllib.request.Request(double.url + path(flavour), value)) as answer:
        events = [line.removeprefix(b"data: ").strip() for line in answer if line.strip()]
    assert events.pop() == b"[DONE]"
    chunks = [json.loads(event) for event in events]
    if flavour == "sglang":  # cumulative
        assert chunks[-1]["output_ids"] == proper(folders[0])[0]
    else:
        assert [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]] == proper(folders[0])[0]


def test_more_rows_than_the_engine_takes_at_once_wait_and_join_a_running_batch(folders: tuple[Path, Path]) -> None:
    with EngineDouble.of("vllm", folders[0], "--max-num-seqs", "2") as double, ThreadPoolExecutor() as pool:
        double.engine.hold(0)
        rows = [pool.submit(draw, double, prompt, seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
        double.engine.until(lambda: len(double.engine.waiting) == len(PROMPTS))
        double.engine.run_freely()
        assert [one.result()[0] for one in rows] == proper(folders[0])
        assert max(event.rows for event in double.engine.trace) == 2


def struck(double: EngineDouble, fault: Fault) -> Any:
    """What one seeded request comes to under a fault: its row, a status, or how it broke."""
    double.faults.add(fault)
    flavour = double.setting.engine.flavour
    request = urllib.request.Request(double.url + path(flavour), json.dumps(body(flavour, PROMPTS[2], SEEDS[2])).encode())
    try:
        with urllib.request.build_opener(NoRedirect).open(request) as answer:
            return row(flavour, json.loads(answer.read(1 << 20 if fault.kind == "huge_body" else None)))
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException, ValueError) as error:
        return type(error).__name__


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def test_every_fault_of_an_answer_is_what_its_row_in_the_table_says(folders: tuple[Path, Path]) -> None:
    for flavour in EVERY:
        with EngineDouble.of(flavour, folders[0], label="first") as double:  # type: ignore[arg-type]
            right, other = proper(folders[0])[2], proper(folders[0])[0]
            assert draw(double, PROMPTS[0], SEEDS[0])[0] == other
            found = {kind: struck(double, Fault(kind, tokens=4, value="another")) for kind in sorted(_SHOWN)}
            assert (found["error_500"], found["loading_503"], found["redirect"]) == (500, 503, 307)
            assert found["half_response"] in ("IncompleteRead", "ConnectionResetError")
            assert found["no_response"] in ("RemoteDisconnected", "ConnectionResetError", "URLError")
            assert {found["invalid_json"], found["huge_body"]} == {"JSONDecodeError"}
            assert found["other_tokens"][0] in (other, found["clones"][0])
            assert found["too_few_tokens"][:2] == (right[:-4], "length")
            assert found["foreign_ids"][0][:-1] == right[:-1]
            assert found["foreign_ids"][0][-1] > END_TOKEN_ID
            assert found["wrong_version"][2] == [{"version": "another", "start": 0, "end": 12}]
            assert found["clones"][0] not in (right, other)
            assert struck(double, Fault("clones")) == found["clones"]
            assert draw(double, PROMPTS[2], SEEDS[2])[0] == right  # and then it is over


_SHOWN = {kind for kind, (occasions, _) in KINDS.items() if not occasions or occasions == ("generate",)} - {
    "dies", "dies_in_generation", "stall", "slow_first_token",
}  # fmt: skip


def test_a_row_that_is_aborted_in_the_middle_of_a_step_ends_alone(
    double: EngineDouble, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = double.engine._forward
    aborted: list[int] = []

    def aborting(request: Any, cache: Any, tokens: tuple[int, ...]) -> Any:
        if not aborted:
            aborted.append(double.engine.abort(lambda one: True))
        return forward(request, cache, tokens)

    monkeypatch.setattr(double.engine, "_forward", aborting)
    assert draw(double, PROMPTS[2], SEEDS[2])[1] == "abort"
    assert aborted == [1]
    assert draw(double, PROMPTS[2], SEEDS[2])[0] == proper(folders[0])[2]


def test_a_held_row_begins_when_it_is_released_and_a_stalled_one_can_be_aborted(double: EngineDouble) -> None:
    double.faults.add(Fault("slow_first_token"), Fault("stall", after=1, tokens=4))
    with ThreadPoolExecutor() as pool:
        held = pool.submit(draw, double, PROMPTS[0], SEEDS[0])
        double.engine.until(lambda: len(double.engine.waiting) == 1)
        stalled = pool.submit(draw, double, PROMPTS[2], SEEDS[2])
        double.engine.until(lambda: any(len(one.tokens) == 4 for one in double.engine.running))
        assert double.engine.steps == 4
        double.engine.release()
        assert held.result()[1] == "length"
        double.engine.abort(lambda one: True)
        assert stalled.result()[1] == "abort"


@pytest.mark.parametrize(
    ("kind", "succeeds", "takes"),
    [
        ("update_refused", False, "nothing"),
        ("update_torn", False, "half"),
        ("update_torn_silently", True, "half"),
        ("update_then_error", False, "all"),
        ("label_only", True, "nothing"),
    ],
)
def test_an_update_that_fails_leaves_what_the_table_says(
    double: EngineDouble, folders: tuple[Path, Path], kind: str, succeeds: bool, takes: str
) -> None:
    before = double.engine.digest()
    double.faults.add(Fault(kind))
    status, _ = update(double, folders[1], "second")
    after = double.engine.digest()
    update(double, folders[1], "second")
    whole = double.engine.digest()
    assert (status == 200) == succeeds
    assert {before: "nothing", whole: "all"}.get(after, "half") == takes


def test_a_death_in_mid_generation_looks_like_one_from_outside(double: EngineDouble) -> None:
    assert struck(double, Fault("dies_in_generation", tokens=3)) in ("RemoteDisconnected", "ConnectionResetError", "URLError")
    with pytest.raises(OSError):
        ask(double.url + "/health", method="GET")


def test_a_schedule_in_a_file_remembers_over_deaths_what_has_struck(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    Schedule.write(file, [Fault("dies_at_start", times=2), Fault("error_500", after=1)])
    starts = [Schedule(file=file).strike("start") for _ in range(3)]
    assert [fault is not None for fault in starts] == [True, True, False]
    assert [Schedule(file=file).strike("generate") is not None for _ in range(3)] == [False, True, False]


def test_an_interpreter_poses_as_one_with_the_engines(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    python = pose(tmp_path / "posing", [Fault("out_of_memory", times=1)])
    for engine, version in (("sglang", "0.5.23"), ("vllm", "0.33.0")):
        code = f"import importlib.metadata; print(importlib.metadata.version({engine!r}))"
        assert subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip() == version
    start = [str(python), "-m", "sglang.launch_server", "--model-path", str(folders[0])]
    ended = subprocess.run(start, capture_output=True, text=True, check=False)
    assert (ended.returncode, "OutOfMemoryError" in ended.stderr) == (1, True)
    refused = subprocess.run([*start, "--no-such-flag"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "unrecognized arguments: --no-such-flag" in refused.stderr) == (2, True)


@pytest.mark.heavy
def test_a_double_in_a_process_of_its_own_draws_the_same_and_can_die(folders: tuple[Path, Path]) -> None:
    with EngineProcess("vllm", folders[0]) as running:
        answer = ask(running.url + "/v1/completions", body("vllm", PROMPTS[2], SEEDS[2]))[1]
        assert row("vllm", answer)[0] == proper(folders[0])[2]
        assert running.state()["steps"] == 12
        ask(running.url + "/double/faults", [{"kind": "dies_in_generation", "tokens": 2}])
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(running.url + "/v1/completions", body("vllm", PROMPTS[2], SEEDS[2]))
        assert running.process.wait() == -9


def test_the_trace_orders_what_the_engine_did(double: EngineDouble, folders: tuple[Path, Path]) -> None:
    draw(double, PROMPTS[0], SEEDS[0])
    update(double, folders[1], "second")
    told = [event.what for event in double.engine.trace if event.what in ("admitted", "finished", "updated", "flushed")]
    assert told == ["admitted", "finished", "updated", "flushed"]
    assert [event.rows for event in double.engine.trace if event.what == "step"] == [1] * POLICY.max_tokens
