"""Settings files as people and programs write them: read as they are meant, or an error with file, line and what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import ConfigurationError
from grail_core.participant.settings import Settings, resolve
from tests.cases.rows import rows

CASES = rows("settings.json")


@pytest.mark.parametrize("case", CASES, ids=[f"{case['file']}: {case['why']}" for case in CASES])
def test_a_settings_file_is_read_as_it_is_meant_or_refused(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [*(str(field.alias) for field in Settings.model_fields.values()), "GRAIL_CONFIG", "GRAIL_SANDBOX"]:
        monkeypatch.delenv(name, raising=False)
    if case["file"] == "environment":
        monkeypatch.setenv(*case["text"].split("=", 1))
    else:
        Path(case["file"]).write_bytes(case["text"].encode(case.get("encoding", "utf-8")))
    if "says" in case:
        with pytest.raises(ConfigurationError) as caught:
            resolve()
        assert caught.value.where == case["where"]
        assert case["says"] in caught.value.what
        assert caught.value.hint
        assert case.get("hint", "") in caught.value.hint
        return
    found = resolve()
    values = found.settings.model_dump(by_alias=True)
    assert {name: values[name] for name in found.origins} == case["reads"]
    assert "\n".join(map(str, found.unknown)) == case.get("tells", "")
