"""What is written of the settings is made from their declarations, and is true."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from grail_core.participant.settings import Settings, declarations, resolve
from tooling import REPOSITORY
from tooling.testing.settings_pages import EXAMPLE, PAGE, main


def test_the_pages_are_those_that_the_declarations_make() -> None:
    assert main(["--check"]) == 0, "run: hatch run settings"


@pytest.mark.parametrize("path", [EXAMPLE, PAGE])
def test_a_page_that_tells_another_default_is_found_and_made_again(path: Path, tmp_path: Path) -> None:
    for one in (EXAMPLE, PAGE):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / one, tmp_path / one)
    text = (tmp_path / path).read_text()
    (tmp_path / path).write_text(re.sub(r"(GRAIL_NETWORK\W+)subnet-81", r"\1subnet-82", text))
    assert main(["--check"], tmp_path) == 1
    assert main([], tmp_path) == 0
    assert (tmp_path / path).read_text() == text


def test_the_example_with_every_line_taken_is_what_runs_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [*(one.name for one in declarations()), "GRAIL_CONFIG", "XDG_CACHE_HOME", "XDG_STATE_HOME"]:
        monkeypatch.delenv(name, raising=False)
    bare = resolve().settings
    text = (REPOSITORY / EXAMPLE).read_text()
    Path(".env").write_text(text)
    assert resolve().origins == {}
    Path(".env").write_text(re.sub(r"^#([A-Z0-9_]+=)", r"\1", text, flags=re.MULTILINE))
    found = resolve()
    assert not found.unknown
    same = {name for name in Settings.model_fields if getattr(found.settings, name) == getattr(bare, name)}
    assert Settings.model_fields.keys() - same == {"wallet_path"}
    assert found.settings.wallet_path == bare.wallet_path.expanduser()


def test_every_setting_says_what_it_means_and_who_reads_it() -> None:
    for one in declarations():
        assert one.meaning, one.name
        assert one.read_by, one.name
        assert not re.search("SECRET|WRITE", one.name) or one.secret, one.name
