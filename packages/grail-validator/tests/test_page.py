"""What a visitor of a validator's page finds, asked over HTTP: who stands how, why, in `explain`'s words, what is missing."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from grail_core.keys import LocalSigner, ss58
from grail_core.participant.settings import load_settings
from grail_core.protocol import Finding, MinerStatus, MinerVerdict, SignedVerdict, Versions
from grail_core.protocol.gradient.judging import MinerFacts, judge_round
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.records import ZERO_ROOT
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import evidence_key, verdict_key
from grail_core.verification.wording import reject
from grail_validator.cli import cli
from grail_validator.ledger_copies import backup_ledger
from grail_validator.page.sources import LedgerSource
from tooling.testing.gradient_rules import ROUND, digest, hotkey_of, losses, round_facts, unsigned_seal
from tooling.testing.published_verdicts import (
    EVIDENCE,
    RULE,
    VALIDATOR,
    PlayedNetwork,
    new_ledger,
    publish,
    put,
    record,
    signed,
)
from tooling.testing.served_page import folder_source, listening, page_of

CAUGHT = 3
WINDOW = 240
PLAYED = PlayedNetwork(fails={WINDOW: [CAUGHT]})
VERDICTS = list(PLAYED.play(12))
LIAR = ss58(PLAYED.hotkey(CAUGHT))


def text_of(answer: httpx.Response) -> str:
    """As it is read: without markup, entities resolved, blanks as one."""
    bare = re.sub(r"<(style|svg).*?</\1>", " ", answer.text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("verdicts")
    for verdict in VERDICTS:
        publish(made, verdict)
    return made


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[httpx.Client]:
    with listening(page_of(folder_source(folder))) as url, httpx.Client(base_url=url) as client:
        yield client


def test_a_rejected_miner_finds_the_true_reason_in_three_clicks(site: httpx.Client, folder: Path) -> None:
    page, clicks = site.get("/", params={"q": LIAR[:8]}), 0
    assert "1 hotkey that match" in text_of(page)
    for wanted in (f"/miners/{LIAR}", f"/windows/{WINDOW}/{LIAR}"):
        assert f'href="{wanted}"' in page.text
        page, clicks = site.get(wanted), clicks + 1
    assert clicks <= 3
    shown = text_of(page)
    done = CliRunner().invoke(cli, ["explain", str(WINDOW), "--hotkey", LIAR, "--from", str(folder), "--json"])
    told = json.loads(done.output)["miners"][0]
    assert told["to_do"] in shown
    assert told["causes"]
    for cause in told["causes"]:
        assert cause["what"] in shown
        assert cause["advice"] in shown
    for finding in told["findings"]:
        for part in (finding["check"], finding["statistic"], finding["outcome"], finding["detail"].split(": ")[-1]):
            assert part in shown
    assert "0.5 0.3 1.7" in shown  # value, threshold, times


def test_the_scoreboard_leads_from_a_failure_to_its_reason_in_one(site: httpx.Client) -> None:
    answer = site.get("/")
    assert f'href="/windows/{WINDOW}/{LIAR}"' in answer.text
    assert "proof 0.5 (threshold 0.3)" in text_of(answer)
    newest = VERDICTS[-1].body
    for uid, hotkey in newest.hotkeys.items():
        assert f"/miners/{ss58(hotkey)}" in answer.text
        assert f"{newest.weights[uid]:,}" in answer.text


def test_the_scoreboard_says_what_changed_since_the_scored_window_before(tmp_path: Path) -> None:
    until = VERDICTS[: WINDOW // 30 + 1]  # the newest is the one in which somebody fails
    for verdict in until:
        publish(tmp_path, verdict)
    with listening(page_of(folder_source(tmp_path))) as url:
        shown = text_of(httpx.get(url, params={"sort": "change"}))
        liar = text_of(httpx.get(f"{url}/miners/{LIAR}"))
    newest, before = until[-1].body, until[-2].body
    assert newest.hotkeys == before.hotkeys
    for uid, hotkey in newest.hotkeys.items():
        change = newest.weights[uid] - before.weights[uid]
        told = f"{change:+,}".replace("-", "−") if change else "–"
        assert re.search(rf"{ss58(hotkey)[:10]}… (?:(?!…).)*? {newest.weights[uid]:,} {re.escape(told)} ", shown), shown
        if ss58(hotkey) == LIAR:
            assert change < 0
            assert f"{told} since the one before" in liar


@pytest.mark.parametrize("key", ["weight", "change", "uid", "hotkey", "valid", "checked", "failures", "lookback", "nonsense"])
def test_the_scoreboard_is_sorted_by_links(site: httpx.Client, key: str) -> None:
    answer = site.get("/", params={"sort": key})
    order = re.findall(r'href="/miners/(\w+)"', answer.text)
    assert sorted(order) == sorted(ss58(hotkey) for hotkey in VERDICTS[-1].body.hotkeys.values())
    assert order[0] == LIAR or key not in ("failures", "lookback")
    assert order == sorted(order) or key != "hotkey"


def test_a_window_shows_who_was_judged_how_and_what_it_was_derived_from(site: httpx.Client) -> None:
    answer = site.get(f"/windows/{WINDOW}")
    shown, body = text_of(answer), VERDICTS[WINDOW // 30].body
    for uid, one in enumerate(body.miners, 1):
        assert f"{uid} {ss58(one.hotkey)[:10]}… {one.status.value.replace('_', ' ')}" in shown
    assert body.digest().hex() in shown
    assert hashlib.sha256(VERDICTS[WINDOW // 30].encode()).hexdigest() in shown
    assert f"earlier: {WINDOW - 30} later: {WINDOW + 30}" in shown


def test_a_miners_page_forecasts_by_the_pay_rules_and_says_what_is_assumed(site: httpx.Client) -> None:
    honest = text_of(site.get(f"/miners/{ss58(PLAYED.hotkey(1))}"))
    for said in ("goes on", "fails once", "stops", "a failure in the next window would mean 0 for 14 windows, and cost"):
        assert said in honest
    assert "everybody else keeps the power it has now" in honest
    caught = text_of(site.get(f"/miners/{LIAR}"))
    assert "inside a look-back: it is worth 0 before window 660, 10 windows more" in caught
    assert "1 failure is remembered until window 2400" in caught


def test_what_is_published_is_downloaded_to_the_byte(site: httpx.Client) -> None:
    verdict = site.get(f"/windows/{WINDOW}/verdict.json")
    assert verdict.content == VERDICTS[WINDOW // 30].encode()
    evidence = site.get(f"/windows/{WINDOW}/evidence.parquet")
    assert evidence.content == EVIDENCE
    for answer in (verdict, evidence):
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        again = site.get(answer.url, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_statistics_and_checkpoints_are_those_of_the_verdicts(site: httpx.Client) -> None:
    proof = text_of(site.get("/proof"))
    assert "proof coarse_error 60 0.002 0.5 0.3" in proof or "proof coarse_error" in proof
    assert f"{WINDOW}, UID {CAUGHT}" in proof
    chain = text_of(site.get("/checkpoints"))
    for verdict in VERDICTS:
        digest = verdict.body.inputs.checkpoint_digest
        assert digest is not None
        assert digest.hex() in chain
    assert "4 of them are known by their digest alone" in chain


def test_metrics_say_what_the_verdicts_say(site: httpx.Client) -> None:
    text = site.get("/metrics").text
    assert f"grail_network_newest_window {VERDICTS[-1].body.window}\n" in text
    assert 'grail_network_memory_failures{check="proof"} 1\n' in text
    assert 'grail_network_memory_windows{status="scored"} 12\n' in text
    for uid, weight in VERDICTS[-1].body.weights.items():
        assert f'grail_network_weight{{uid="{uid}"}} {weight}\n' in text
    assert "grail_validator_page_source_up 1\n" in text


def test_health_is_503_with_the_reason_once_the_newest_window_is_old_or_of_unknown_age(folder: Path) -> None:
    last = VERDICTS[-1].body.miners[0].store_time_ms
    assert last is not None
    cases = (
        (last + 1000, ""),
        (last + 3_600_000, "the newest window is 3600 s old, older than 225 s"),
        (
            last - 3_600_000,
            "how old the newest window is cannot be told: no seal lay in it, or this machine's clock is behind its last one",
        ),
    )
    for now, reason in cases:
        with listening(page_of(folder_source(folder), now_ms=partial(int, now))) as url:
            answer = httpx.get(f"{url}/healthz")
        assert answer.status_code == (503 if reason else 200)
        assert answer.json()["reason"] == reason


def test_a_ledger_shows_what_its_verdicts_say_while_its_validator_writes_it_and_so_does_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = new_ledger(path)
    for verdict in VERDICTS[:4]:
        record(ledger, verdict)
    page = page_of(LedgerSource(path))
    with listening(page) as url, httpx.Client(base_url=url) as client:
        assert client.get("/windows/120").status_code == 404
        record(ledger, VERDICTS[4])
        page.board.refresh()
        assert client.get("/windows/120").status_code == 200
        assert client.get("/windows/90/evidence.parquet").content == EVIDENCE
        ledger.record_published(Window(90))
        gone = client.get("/windows/90/evidence.parquet")
        assert gone.status_code == 404
        assert "does not lie here" in gone.text
        before = text_of(client.get("/"))
    copy = tmp_path / "copy.sqlite"
    backup_ledger(load_settings(), copy, ledger=path)
    with listening(page_of(LedgerSource(copy))) as url:
        assert text_of(httpx.get(url)).replace("copy.sqlite", "ledger.sqlite") == before


def _round_miner(uid: int, mean: int | None, *findings: Finding) -> MinerFacts:
    hotkey = hotkey_of(uid)
    return MinerFacts(
        uid=uid,
        hotkey=hotkey,
        seal=unsigned_seal(hotkey),
        reason="replay 0.41" if findings else "",
        seal_time_ms=1000,
        findings=findings,
        feedback_after=ZERO_ROOT,
        common=None if mean is None else losses(mean, uid),
        own=None if mean is None else losses(mean + 900, uid, "own", n=16),
        challenge_seed=digest("challenge", uid),
    )


def test_rounds_of_gradient_work_are_told_by_their_own_words(tmp_path: Path) -> None:
    gradient = reject("replay", value="0.41", threshold="0.12", detail="step 2, gradient: relative L2 of the gradient")
    played = [_round_miner(2, 20_000), _round_miner(5, None, gradient)]
    body = judge_round(round_facts(played, {uid: hotkey_of(uid) for uid in (2, 5)}), GradientMemory())
    signature = VALIDATOR.sign(SignedGradientVerdict.message(body, VALIDATOR.hotkey))
    verdict = SignedGradientVerdict(body, VALIDATOR.hotkey, signature)
    put(tmp_path, verdict_key(ROUND), verdict.encode())
    address = ss58(hotkey_of(5))
    with listening(page_of(folder_source(tmp_path))) as url, httpx.Client(base_url=url) as client:
        assert f'href="/windows/{ROUND}/{address}"' in client.get("/").text
        shown = text_of(client.get(f"/windows/{ROUND}/{address}"))
        assert f"it earns nothing before round {ROUND + 14 * 30}" in shown
        assert "replay" in shown
        assert "0.41 0.12" in shown
        assert f"worth 0 before round {ROUND + 14 * 30}" in text_of(client.get(f"/miners/{address}"))
        assert "nobody was merged" in text_of(client.get(f"/windows/{ROUND}"))


def test_what_is_missing_or_strange_is_named_and_not_counted(tmp_path: Path) -> None:
    def replaced(verdict: SignedVerdict, **members: object) -> bytes:
        raw = json.loads(verdict.encode())
        raw["body"] |= members
        return json.dumps(raw, separators=(",", ":")).encode()

    for verdict in VERDICTS[:9]:
        publish(tmp_path, verdict)
    put(tmp_path, verdict_key(Window(30)), b"{")
    put(tmp_path, verdict_key(Window(60)), replaced(VERDICTS[2], protocol_version=2))
    put(tmp_path, verdict_key(Window(90)), replaced(VERDICTS[3], reason="forged"))
    other = signed(replace(VERDICTS[4].body, network_id=Digest(b"o" * 32)))
    publish(tmp_path, other)
    publish(tmp_path, signed(VERDICTS[5].body, LocalSigner.from_seed(b"W" * 32)))
    put(tmp_path, verdict_key(Window(180)), VERDICTS[7].encode())
    (tmp_path / verdict_key(Window(210))).unlink()
    with listening(page_of(folder_source(tmp_path))) as url, httpx.Client(base_url=url) as client:
        shown = text_of(client.get("/"))
        for said in (
            "6 windows are not shown",
            "30: not a verdict that this version reads",
            "version 2 is unknown",
            "90: not signed by the validator that it names",
            "120: a verdict of another network",
            "150: signed by 5",
            "180: a verdict of window 210",
            "No verdict of window 210.",
        ):
            assert said in shown
        listed = text_of(client.get("/windows"))
        assert "210 no verdict" in listed
        assert client.get("/windows/60").status_code == 200
        assert client.get(f"/windows/60/{LIAR}").status_code == 404
        assert "grail_validator_page_windows_unread 6\n" in client.get("/metrics").text


def test_strangers_texts_are_shown_as_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x1b[31m\u202e\"'&"
    finding = reject("file", value=evil, detail=evil)
    hotkey = PLAYED.hotkey(1)
    worst = replace(finding, check="<b>x</b>", detail=evil)
    miner = MinerVerdict(hotkey, 1, MinerStatus.ABSENT, reason=evil, findings=(worst,))
    body = replace(VERDICTS[0].body, miners=(miner,), reason=evil, versions=Versions(evil, evil, evil))
    publish(tmp_path, signed(body))
    with listening(page_of(folder_source(tmp_path))) as url, httpx.Client(base_url=url) as client:
        for path in ("/", "/windows", "/windows/0", f"/windows/0/{ss58(hotkey)}", f"/miners/{ss58(hotkey)}", "/proof"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "<script" not in answer.text
            assert "<b>x" not in answer.text
            assert not set("\x1b\u202e") & set(answer.text)
        assert client.get("/", params={"q": evil}).text.count("<script") == 0
        assert "&lt;script&gt;" in client.get("/windows/0").text


def test_without_the_networks_rule_everything_is_shown_but_the_forecast(folder: Path) -> None:
    with listening(page_of(folder_source(folder), rule=None)) as url:
        assert "Nothing is forecast" in httpx.get(f"{url}/miners/{LIAR}").text
    with listening(page_of(folder_source(folder), rule=replace(RULE, burn_uid=1))) as url:
        assert "Nothing is forecast" in httpx.get(f"{url}/miners/{LIAR}").text


def test_evidence_that_is_another_than_the_verdict_names_is_never_sent_whole(tmp_path: Path) -> None:
    publish(tmp_path, VERDICTS[0], EVIDENCE[:-1] + b"?")
    publish(tmp_path, VERDICTS[1], None)
    with listening(page_of(folder_source(tmp_path))) as url, httpx.Client(base_url=url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/windows/0/evidence.parquet")
        assert client.get("/windows/30/evidence.parquet").status_code == 404
        put(tmp_path, evidence_key(Window(30)), EVIDENCE)
        assert client.get("/windows/30/evidence.parquet").content == EVIDENCE
