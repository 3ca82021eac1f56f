"""The figures of a run as tables for a person; the JSON holds all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tooling.studies.gpu_study.study import DONE, failures

_TESTS = ("sketch_ratio", "twin_margin", "logprob_ratio", "twin_logprob")
_COLUMNS = ("R", "M", "L", "twin L")


def table(found: Mapping[str, Any]) -> str:
    """All tables, one after the other."""
    machine = found["machine"]
    lines = [
        f"{machine.get('gpu', machine['device'])}, torch {machine['torch']}, {found.get('seconds', 0):.0f} of "
        f"{found['budget_s']:.0f} s"
    ]
    for name, of_shape in found["shapes"].items():
        shape = of_shape["shape"]
        lines += ["", f"== {name}: {shape['layers']} x {shape['hidden']}, vocabulary {shape['vocabulary']:,} =="]
        for section, items in of_shape["sections"].items():
            lines += ["", f"-- {section} --", *_PRINTERS[section](items), *_not_done(items)]
    failed = failures(dict(found))
    return "\n".join([*lines, *(["", f"failed ({len(failed)}):", *failed] if failed else [])])


def _done(items: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, one["figures"]) for name, one in items.items() if one["status"] == DONE)


def _not_done(items: Mapping[str, Any]) -> list[str]:
    return [
        f"   {name}: {one['status']}" + (f" ({one['reason']})" if one.get("reason") else "")
        for name, one in items.items()
        if one["status"] != DONE
    ]


def _throughput(items: Mapping[str, Any]) -> Iterator[str]:
    for name, figures in _done(items):
        for key, value in _flat(figures):
            yield f"   {name + ', ' + key:<58}{value:>14,.4g}"


def _flat(figures: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key} ")
        elif value is not None:
            yield f"{above}{key}", float(value)


def _drift(items: Mapping[str, Any]) -> Iterator[str]:
    yield "   " + ", ".join(f"{short}: {test}" for short, test in zip(_COLUMNS, _TESTS, strict=True)) + "; per rollout"
    yield _row("", ["own drift", "claimed", "noise", *(f"{one} mean/largest" for one in _COLUMNS)])
    for name, figures in _done(items):
        for key, one in figures.items():
            yield _row(f"{name}: {key}", _honest_columns(one))


def _honest_columns(one: Mapping[str, Any]) -> list[str]:
    values = (one["units"][test] for test in _TESTS)
    drift = [f"{one[key]:.5f}" for key in ("own_drift", "claimed_drift", "own_logit_noise")]
    return [*drift, *(f"{value['mean']:+.3f}/{value['largest']:+.2f}" for value in values)]


def _deviations(items: Mapping[str, Any]) -> Iterator[str]:
    yield _row(
        "(* beyond its threshold)", ["own drift", "claimed", "noise", *_COLUMNS, "  alternatives: ln W, the two largest"]
    )
    for name, figures in _done(items):
        for key, one in figures.items():
            statistics = one["statistics"]
            drift = [f"{one[column]:.5f}" for column in ("own_drift", "claimed_drift", "own_logit_noise")]
            pooled = [_starred(statistics[test], "+.3f") for test in _TESTS]
            named = sorted(
                ((other, said) for other, said in statistics.items() if _is_alternative(other)),
                key=lambda pair: -pair[1]["value"],
            )
            yield _row(f"{name}: {key}", [*drift, *pooled]) + "  " + _largest(named)


def _largest(named: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return ", ".join(f"{name} {_starred(said, '.1f')}" for name, said in named[:2])


def _is_alternative(name: str) -> bool:
    return name.startswith(("previous", "int", "temperature", "top-p"))


def _starred(said: Mapping[str, Any], form: str) -> str:
    return f"{said['value']:{form}}{'*' if said['exceeds'] else ''}"


def _bit_equal(items: Mapping[str, Any]) -> Iterator[str]:
    yield "   rejected: rollouts whose bits are not the validator's; other numerics are, in honest work too"
    yield _row("", ["b mean", "sd", "least", "largest", "rejected", "of"])
    for name, one in _done(items):
        if "b" not in one:
            yield from (f"   {name}, {key}: {value}" for key, value in one.items())
            continue
        columns = [f"{one['b'][key]:+.2f}" for key in ("mean", "sd", "least", "largest")]
        yield _row(name, [*columns, str(one["rejected"]), str(one["rollouts"])])


def _against_cpu(items: Mapping[str, Any]) -> Iterator[str]:
    for name, figures in _done(items):
        if "units" in figures:
            yield _row(name, _honest_columns(figures))
        else:
            yield from (f"   {name + ', ' + key:<58}{value:>14.4g}" for key, value in _flat(figures))


def _row(name: str, columns: Sequence[str]) -> str:
    return f"   {name:<62}" + "".join(f"{column:>16}" for column in columns)


_PRINTERS = {
    "throughput": _throughput,
    "drift": _drift,
    "deviations": _deviations,
    "cpu": _against_cpu,
    "bit-equal": _bit_equal,
}
