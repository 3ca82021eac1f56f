"""`hatch run gpu-study` on a model of two layers: the steps that a GPU takes, so that it works the first time one is there."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tooling.studies.gpu_study import report, study
from tooling.studies.gpu_study.__main__ import main
from tooling.studies.gpu_study.bench import Bench
from tooling.studies.gpu_study.sections import Section
from tooling.studies.gpu_study.shapes import SHAPES

CPU = torch.device("cpu")
KERNELS_OF_A_GPU = {"sdpa memory-efficient, batch 16", "sdpa cudnn, batch 16"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu-study") / "found.json"
    sections = ("throughput", "drift", "deviations", "cpu")
    study.Study(CPU, ("tiny",), sections, 300.0, out=out).run()
    written: dict[str, Any] = json.loads(out.read_text())
    return written


def _figures(found: dict[str, Any], section: str, item: str) -> dict[str, Any]:
    outcome = found["shapes"]["tiny"]["sections"][section][item]
    assert outcome["status"] == study.DONE, outcome
    figures: dict[str, Any] = outcome["figures"]
    return figures


def test_every_section_runs_and_what_this_device_has_not_is_said(found: dict[str, Any]) -> None:
    assert study.failures(found) == []
    sections = found["shapes"]["tiny"]["sections"]
    missing = {item for items in sections.values() for item, one in items.items() if one["status"] == study.NOT_HERE}
    assert missing == KERNELS_OF_A_GPU | set(sections["cpu"])
    assert all(one["status"] in (study.DONE, study.NOT_HERE) for items in sections.values() for one in items.values())


def test_prescribed_claims_reproduce_the_validators_own_numbers(found: dict[str, Any]) -> None:
    one = _figures(found, "drift", "sdpa, batch 16, again")["declared"]
    assert one["claimed_drift"] == pytest.approx(one["own_drift"], rel=0.01)
    assert not any(said["exceeds"] for said in one["statistics"].values())


def test_quantised_weights_are_found_by_the_tests_that_should_find_them(found: dict[str, Any]) -> None:
    coarse = _figures(found, "deviations", "4-bit weights, groups of 32")["run"]
    assert coarse["claimed_drift"] > 5 * coarse["own_drift"]
    assert coarse["statistics"]["sketch_ratio"]["exceeds"]
    assert coarse["statistics"]["int4-groups"]["exceeds"]
    right = _figures(found, "deviations", "4-bit weights, groups of 32")["generation alone"]
    assert not right["statistics"]["sketch_ratio"]["exceeds"]
    assert not any(said["exceeds"] for said in _figures(found, "deviations", "honest")["honest"]["statistics"].values())


def test_three_bf16_products_are_a_float32_pass_and_two_are_nearly(found: dict[str, Any]) -> None:
    bodies = _figures(found, "throughput", "one pass")
    assert bodies["drift_rms.bf16x3"] < 1e-6 < bodies["drift_rms.bf16x2"] < 1e-2 * bodies["drift_rms.bf16"]


def test_the_table_names_every_item(found: dict[str, Any]) -> None:
    text = report.table(found)
    assert all(item in text for items in found["shapes"]["tiny"]["sections"].values() for item in items)


def _breaks(_bench: Bench) -> list[Any]:
    def fails() -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    return [("broken", fails), ("whole", lambda: {"figure": 1.0})]


def test_a_failure_is_written_down_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(study.SECTIONS, "drift", Section("drift", 1.0, _breaks))
    told: list[str] = []
    found = study.Study(CPU, ("tiny",), ("drift",), 60.0, out=tmp_path / "out.json", say=told.append).run()
    items = found["shapes"]["tiny"]["sections"]["drift"]
    assert items["broken"]["status"] == study.FAILED
    assert items["whole"]["status"] == study.DONE
    assert study.failures(found) == ["tiny, drift, broken: RuntimeError: CUDA error: an illegal memory access was encountered"]
    assert "fails" in items["broken"]["where"][-1]
    assert any("broken failed" in line for line in told)
    assert json.loads((tmp_path / "out.json").read_text()) == found


def test_a_section_ends_with_its_share_and_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()  # every look at the clock takes as long
    items = [(f"item {n}", lambda: {"figure": 0.0}) for n in range(150)]
    for name in ("throughput", "drift"):
        monkeypatch.setitem(study.SECTIONS, name, Section(name, 1.0, lambda _bench: items))
    found = study.Study(CPU, ("tiny",), ("throughput", "drift"), 400.0, clock=lambda: float(next(seconds))).run()
    for name in ("throughput", "drift"):
        outcomes = [one["status"] for one in found["shapes"]["tiny"]["sections"][name].values()]
        assert outcomes[0] == study.DONE
        assert outcomes[-1] == study.NO_TIME
        assert outcomes == sorted(outcomes)  # done, then no time
    assert SHAPES["0.5b"].share > SHAPES["7b"].share


def test_a_device_that_is_not_there_is_refused_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main(["--device", "cuda:63", "--out", str(tmp_path / "none.json")])
    assert code == 3
    told = capsys.readouterr().err
    assert "no device that can be used here" in told
    assert "--device cuda:63" in told
    assert "GRAIL_DEVICE" not in told.split("try:")[0]
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--shapes", "9b"],
        ["--sections", "drfit"],
        ["--budget-s", "0"],
        ["--budget-s", "nan"],
        ["--tiny", "--shapes", "tiny"],
        ["--tiny", "--out", "."],
        ["--tiny", "--out", "no-such-folder/found.json"],
    ],
)
def test_options_that_mean_nothing_are_refused(wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main([*wrong, "--device", "cpu"])
    assert error.value.code == 2


@pytest.mark.heavy
def test_a_study_of_nothing_is_an_error_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    assert main(["--device", "cpu", "--shapes", "7b,7b", "--sections", "cpu", "--out", str(out)]) == 2
    assert "no section of cpu is of 7b" in capsys.readouterr().err
    assert not out.exists()


def test_reproduced_bits_tell_a_stale_checkpoint_in_every_rollout(tmp_path: Path) -> None:
    found = study.Study(CPU, ("tiny",), ("bit-equal",), 300.0).run()
    items = found["shapes"]["tiny"]["sections"]["bit-equal"]
    assert study.failures(found) == []
    again, stale = (items[name]["figures"] for name in ("sdpa, batch 16, again", "previous checkpoint, lr 1e-05"))
    assert dict(study.SECTIONS["bit-equal"].items(Bench(SHAPES["tiny"], CPU)))["digests"]() == items["digests"]["figures"]
    assert again["rejected"] == 0
    assert again["b"]["largest"] < -6
    assert stale["rejected"] == stale["rollouts"]
