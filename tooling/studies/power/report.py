"""What a study found, as data, as a table for a person, and as plots.

`summary` is what `docs/power.json` holds; the attack table reads the published power of a deviation from there.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from grail_core.proof.calibration import shipped_table
from grail_core.proof.statistics import alternatives_in, rollout_values, shares_of, tested_in
from grail_core.protocol.constants import CHECK_ALL_BELOW, FALSE_REJECT_RATE
from tooling.adversaries.deviations import weights
from tooling.adversaries.deviations.provers import PROTOCOL_NUMERICS
from tooling.studies.power import detection, plots
from tooling.studies.power.study import DeviationResult, Study, shipped_pair

ROC_ALPHAS = np.geomspace(1e-8, 1e-1, 29)
_ROC = (
    ("8-bit weights, per channel, eager attention", "int8"),
    ("previous checkpoint, lr 1e-5, eager attention", "previous at 1e-5"),
    ("previous checkpoint, lr 3e-6, eager attention", "previous at 3e-6"),
    ("previous checkpoint, lr 1e-6, eager attention", "previous at 1e-6"),
    ("steering, 10 flips per 1,000 tokens", "margin"),
    ("steering, 3 flips per 1,000 tokens", "margin"),
    ("steering, 1 flip per 1,000 tokens", "margin"),
    ("8-bit generation, right prefill", "margin"),
)
_RAN = {
    "8-bit weights, per channel": "int8",
    "8-bit weights, per channel, eager attention": "int8",
    "8-bit weights, groups of 32": "int8-groups",
    **{
        f"previous checkpoint, lr {rate}{how}": f"previous at {rate}"
        for rate in ("1e-6", "3e-6", "1e-5")
        for how in ("", ", eager attention")
    },
}


def summary(study: Study) -> dict[str, Any]:
    """Everything that is published, from one study."""
    honest = study.honest_results()
    results = study.deviation_results()
    same = [h for h in honest if h.same_dtype]
    rollouts, windows = sum(h.rollouts for h in same), sum(h.windows for h in same)
    rejected = sum(h.rejected for h in same)
    return {
        "size": study.size.name,
        "where": f"{platform.machine()} CPU, one thread, torch {torch.__version__}, transformers {transformers.__version__}",
        "corpus": study.corpus.name,
        "models": {name: json.loads((made.folder / "training.json").read_text()) for name, made in study.trained.items()},
        "false_reject_rate": FALSE_REJECT_RATE,
        "calibration": {
            "rollouts": study.calibration.rollouts,
            "tokens": study.calibration.tokens,
            "thresholds_at_64_rollouts": {
                name: null.threshold(CHECK_ALL_BELOW, shares_of(FALSE_REJECT_RATE, 0)[0])
                for name, null in study.calibration.nulls.items()
            },
        },
        "honest": {
            "rollouts": rollouts,
            "windows": windows,
            "rejected_windows": rejected,
            "enforced_rejected_windows": sum(h.enforced_rejected for h in same),
            "enforced_table": shipped_table().version,
            # With none rejected: the rate that would give none with 5 % chance.
            "upper_bound_per_window_95": upper_bound(rejected, windows),
            "numerics": [
                {
                    "name": h.numerics,
                    "rollouts": h.rollouts,
                    "windows": h.windows,
                    "rejected": h.rejected,
                    "enforced_rejected": h.enforced_rejected,
                    "by": h.by,
                    "rms_sketch_difference": math.sqrt(h.energy),
                    "same_dtype": h.same_dtype,
                }
                for h in honest
            ],
            "alternatives": _honest_projections(study),
        },
        "signal_and_noise": _signal_and_noise(study),
        "deviations": [_deviation(study, result) for result in results],
    }


def upper_bound(events: int, trials: int) -> float:
    """One-sided 95 % Clopper–Pearson bound of a rate."""
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        terms = (math.comb(trials, k) * middle**k * (1 - middle) ** (trials - k) for k in range(events + 1))
        low, high = (middle, high) if math.fsum(terms) > 0.05 else (low, middle)
    return high


def _deviation(study: Study, result: DeviationResult) -> dict[str, Any]:
    best = result.best
    enforced = detection.interval_of_power(study.deviation(result.deviation), shipped_pair(result.deviation.name))
    return {
        "name": result.deviation.name,
        "threat": result.deviation.threat,
        "rollouts": result.rollouts,
        "best_statistic": best.statistic if best else None,
        "rollouts_to_detect": best.rollouts if best else None,
        "tokens_to_detect": best.tokens if best else None,
        "extrapolated": best.extrapolated if best else None,
        "window_power": result.window_power,
        "enforced_window_power": enforced,
        "statistics": {
            d.statistic: {"rollouts": d.rollouts, "tokens": d.tokens, "window_power": d.window_power} for d in result.detections
        },
    }


def _honest_projections(study: Study) -> list[dict[str, Any]]:
    """The alternatives on honest rollouts and on those that ran them: where they project to, and rejected windows."""
    runs = {name: ("honest", run) for name, run in study.honest_runs().items()}
    by_name = {deviation.name: deviation for deviation in study.deviations}
    for name in _RAN:
        runs[name] = ("ran it", study.deviation(by_name[name]))
    found = []
    for name, (who, run) in runs.items():
        sample = detection.comparisons(run)
        for alternative in alternatives_in(tested_in(sample)):
            if who == "ran it" and alternative != _RAN[name]:
                continue
            found.append(
                {"numerics": name, "who": who, "alternative": alternative, **detection.projection(alternative, sample)}
            )
    return found


def _signal_and_noise(study: Study) -> dict[str, Any]:
    """Root mean squares of a sketch coordinate: what changes the weights, and what changes the kernels."""
    runs = study.honest_runs()
    plain = runs[PROTOCOL_NUMERICS]
    noise = {
        name: float(np.sqrt(rollout_values("energy", detection.comparisons(run)).mean()))
        for name, run in runs.items()
        if name != PROTOCOL_NUMERICS
    }
    measured = tested_in(detection.comparisons(plain))
    signal = {
        name: {
            "float32": _root_mean_square([one.deltas[name] for one in measured]),
            "changed_weights": weights.changed_share(study.bench.model, model),
        }
        for name, model in study.bench.other_weights.items()
    }
    single = _root_mean_square([one.drift for one in measured])
    return {"kernel_noise": noise, "bf16_against_float32": single, "alternatives": signal}


def _root_mean_square(parts: Sequence[npt.NDArray[np.float32]]) -> float:
    return float(np.sqrt(np.mean(np.concatenate([np.square(part).ravel() for part in parts]))))


def roc(study: Study) -> dict[str, list[float]]:
    """Share of 64-rollout windows rejected, by the false-reject rate asked of one statistic."""
    curves = {}
    by_name = {deviation.name: deviation for deviation in study.deviations}
    for name, statistic in _ROC:
        observations = study.deviation(by_name[name])
        curves[f"{name} ({statistic})"] = detection.power_curve(observations, study.calibration, statistic, ROC_ALPHAS)
    return curves


def publish(study: Study, found: dict[str, Any], docs: Path) -> None:
    """power.json, the plots, and the tables between the marks of proof.md."""
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "power.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (docs / "power-roc.svg").write_text(plots.roc(list(ROC_ALPHAS), roc(study)))
    (docs / "power-signal.svg").write_text(plots.signal_and_noise(found["signal_and_noise"]))
    page = docs / "proof.md"
    if page.is_file():
        text = page.read_text()
        tables = {"honest": honest_markdown, "deviations": markdown, "alternatives": alternatives_markdown}
        for name, body in ((name, write(found)) for name, write in tables.items()):
            text = _between_marks(text, name, body)
        page.write_text(text)


def honest_markdown(found: dict[str, Any]) -> str:
    """Honest drift and honest rejects, for proof.md."""
    honest = found["honest"]
    lines = [
        f"| miner's numerics | RMS sketch difference | rollouts | windows rejected | by `{honest['enforced_table']}` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in honest["numerics"]:
        note = "" if one["same_dtype"] else " (for the record: no class admits it)"
        lines.append(
            f"| {one['name']}{note} | {one['rms_sketch_difference']:.2g} | {one['rollouts']:,} "
            f"| {one['rejected']} of {one['windows']} | {one['enforced_rejected']} of {one['windows']} |"
        )
    lines += [
        "",
        f"Same dtype together: {honest['rollouts']:,} rollouts in {honest['windows']} windows of 64, "
        f"{honest['rejected_windows']} rejected, {honest['enforced_rejected_windows']} by the shipped table; "
        f"the rate per window is below {honest['upper_bound_per_window_95']:.2g} "
        "at 95 % confidence.",
    ]
    return "\n".join(lines)


def markdown(found: dict[str, Any]) -> str:
    """Deviations, for proof.md."""
    lines = [
        "| threat | deviation | statistic | tokens | rollouts | power, one window | as enforced |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found["deviations"]:
        tokens = f"{one['tokens_to_detect']:,}{'*' if one['extrapolated'] else ''}" if one["tokens_to_detect"] else "not seen"
        enforced = one["enforced_window_power"]
        lines.append(
            f"| {one['threat']} | {one['name']} | {one['best_statistic'] or '–'} | {tokens} "
            f"| {one['rollouts_to_detect'] or '–'} | {one['window_power']:.2f} "
            f"| {enforced['value']:.2f} ({enforced['low']:.2f}–{enforced['high']:.2f}) |"
        )
    return "\n".join(lines)


def alternatives_markdown(found: dict[str, Any]) -> str:
    """Where honest miners and those that ran an alternative project to, for proof.md."""
    signal = found["signal_and_noise"]["alternatives"]
    names = list(signal)
    placed = {(one["numerics"], one["alternative"]): one for one in found["honest"]["alternatives"]}
    ran = {(alternative, "eager" in deviation): deviation for deviation, alternative in _RAN.items()}

    def place(one: dict[str, Any] | None) -> str:
        if one is None:
            return "–"
        return f"{one['t']:.2f} ± {one['standard_error']:.2f} ({one['rejected']} of {one['windows']})"

    rows = [
        ["weights that differ", *(f"{100 * signal[name]['changed_weights']:.1f} %" for name in names)],
        ["RMS Δ in float32", *(f"{signal[name]['float32']:.4f}" for name in names)],
    ]
    honest = [one["name"] for one in found["honest"]["numerics"] if one["same_dtype"]]
    rows += [[f"honest, {numerics}", *(place(placed.get((numerics, name))) for name in names)] for numerics in honest]
    for eager in (False, True):
        which = [placed.get((ran.get((name, eager), ""), name)) for name in names]
        rows.append([f"runs the alternative, {'eager' if eager else 'SDPA'}", *map(place, which)])
    head = ["t ± standard error (windows rejected)", *names]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _between_marks(text: str, name: str, body: str) -> str:
    begin, end = f"<!-- {name}: written by hatch run bench power -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    return f"{before}{begin}\n{body}\n{end}{after}" if found and closed else text


def flat(found: dict[str, Any]) -> dict[str, float]:
    """One flat object of numbers; a deviation that nothing detects has no tokens key."""
    figures: dict[str, float] = {
        "power.honest_rollouts": found["honest"]["rollouts"],
        "power.honest_windows": found["honest"]["windows"],
        "power.honest_rejected_windows": found["honest"]["rejected_windows"],
        "power.honest_rejected_windows.enforced": found["honest"]["enforced_rejected_windows"],
        "power.false_reject_bound_95": found["honest"]["upper_bound_per_window_95"],
    }
    for one in found["deviations"]:
        key = "".join(c if c.isalnum() or c in ".-" else "_" for c in one["name"].lower().replace("×", "x"))
        figures[f"power.window.{key}"] = one["window_power"]
        if one["tokens_to_detect"] is not None:
            figures[f"power.tokens.{key}"] = one["tokens_to_detect"]
    return figures


def table(found: dict[str, Any]) -> str:
    """For a terminal."""
    honest = found["honest"]
    lines = [
        f"{found['where']}; text: {found['corpus']}; model {found['models']['policy']}",
        f"honest, same dtype, not used for calibration: {honest['rollouts']} rollouts, {honest['windows']} windows of 64, "
        f"{honest['rejected_windows']} rejected, {honest['enforced_rejected_windows']} by {honest['enforced_table']} "
        f"(rate below {honest['upper_bound_per_window_95']:.2g} at 95 %)",
        "",
        f"{'threat':7}{'deviation':48}{'statistic':28}{'tokens':>10}{'rollouts':>10}{'window':>8}",
    ]
    for one in found["deviations"]:
        tokens = f"{one['tokens_to_detect']:,}{'*' if one['extrapolated'] else ''}" if one["tokens_to_detect"] else "–"
        lines.append(
            f"{one['threat']:7}{one['name']:48}{one['best_statistic'] or 'none':28}{tokens:>10}"
            f"{one['rollouts_to_detect'] or '–':>10}{one['window_power']:>8.2f}"
        )
    lines.append("tokens: positions looked at to detect with power 0.99 at false reject 1e-6; * more than were collected")
    return "\n".join(lines)
