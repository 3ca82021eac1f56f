"""A settings file says exactly what its grammar says, or is an error that names file and line; no error repeats a value."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError
from grail_core.participant.dotenv import Assignment, parse
from grail_core.participant.settings import Resolution, Settings, resolve
from grail_core.participant.settings_files import MAX_DOTENV_BYTES, MAX_TOML_BYTES, read_dotenv

SECRET = "c0ffee-do-not-show"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder without .env or TOML file, and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [*(str(field.alias) for field in Settings.model_fields.values()), "GRAIL_CONFIG", "GRAIL_SANDBOX"]:
        monkeypatch.delenv(name, raising=False)


def refused(file: str, content: bytes | str) -> ConfigurationError:
    """The error that a settings file with this content is."""
    Path(file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigurationError) as caught:
        resolve()
    assert caught.value.hint
    return caught.value


def resolved(file: str, content: bytes | str) -> Resolution:
    Path(file).write_bytes(content.encode() if isinstance(content, str) else content)
    return resolve()


# --- .env: lines --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "where", "says"),
    [
        ("BT_NETWORK='test\nNETUID=7\n", ".env, line 1", "not closed"),
        ('NETUID=7\nBT_NETWORK="test\n', ".env, line 2", "not closed"),
        ('BT_NETWORK="test\\"\n', ".env, line 1", "not closed"),
        ("NETUID: 7\nBT_NETWORK: test\n", ".env, lines 1 and 2", "colon"),
        ("# first\n\nNETUID 7\n", ".env, line 3", "no NAME=value"),
        ("export NETUID\n", ".env, line 1", "no NAME=value"),
        ("set NETUID=7\n", ".env, line 1", "no NAME=value"),
        ("7=NETUID\n", ".env, line 1", "no NAME=value"),
        ("=7\n", ".env, line 1", "no NAME=value"),
        ("[grail]\nNETUID=7\n", ".env, line 1", "tables"),
        ("BT_NETWORK='te'st\n", ".env, line 1", "something follows"),
        ("BT_NETWORK='test'# why\n", ".env, line 1", "something follows"),
        ("NETUID=7\nBT_NETWORK=test\nNETUID=8\n", ".env, line 3", "line 1 already"),
        ("GRAIL_CACHE_DIR=$HOME/cache\n", ".env, line 1", "not expanded"),
        ('GRAIL_CACHE_DIR="${HOME}/cache"\n', ".env, line 1", "not expanded"),
        ("GRAIL_CACHE_DIR=`pwd`\n", ".env, line 1", "not expanded"),
        ("NETUID=7\rBT_NETWORK=test\r", ".env, line 1", r"\r"),
        ("NETUID=7\x1b[0m\n", ".env, line 1", r"\x1b"),
        ("BT_NETWORK=te\u200bst\n", ".env, line 1", r"\u200b"),
        ("BT_NETWORK=“test”\n", ".env, line 1", "quote"),
        ("BT_NETWORK=test'\n", ".env, line 1", "quote"),
        ("""BT_NETWORK="'test'"\n""", ".env, line 1", "quote"),
        ("\nNETUID=seven\n", ".env, line 2", "whole number from 0 to 65535"),
        ("NETUID=7.0\n", ".env, line 1", "whole number"),
        ("NETUID==7\n", ".env, line 1", "whole number"),
        ("NETUID=7#x\n", ".env, line 1", "whole number"),
        ("\n\n\nGRAIL_CONFIG=other.toml\n", ".env, line 4", "environment alone"),
        ("GRAIL_PIPELINE_BACKEND=abacus\n", ".env, line 1", "hf, sglang, vllm"),
    ],
)
def test_a_line_that_is_no_setting_or_says_what_it_cannot_is_named(content: str, where: str, says: str) -> None:
    error = refused(".env", content)
    assert error.exit_code == 3
    assert error.where == where
    assert says in error.what


@pytest.mark.parametrize(
    "content",
    [
        "NETUID=7\nBT_NETWORK=test\n",
        "NETUID=7\r\nBT_NETWORK=test\r\n",
        "\ufeffNETUID=7\nBT_NETWORK=test",
        "export NETUID=7\n  BT_NETWORK = test  \n",
        "NETUID='7'\nBT_NETWORK=\"test\"\n",
        "NETUID=7 # ours\nBT_NETWORK='test'  # theirs\n# NETUID=8\n",
        "NETUID=\t7\t\nBT_NETWORK=' test '\n",
        'PROMPT=$(whoami) `x` "a" b\nJSON={"a": 1}\nother.name=x\nNETUID=7\nBT_NETWORK=test\n',
    ],
)
def test_what_the_grammar_allows_is_read(content: str) -> None:
    found = resolved(".env", content).settings
    assert (found.netuid, found.bt_network) == (7, "test")


def test_an_empty_setting_is_an_unset_one_in_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("grail.toml").write_text('GRAIL_DATA_DIR = " "\n')
    monkeypatch.setenv("GRAIL_DATA_DIR", "\r")
    assert resolved(".env", "GRAIL_DATA_DIR=\n").settings.data_dir is None
    assert resolved(".env", "GRAIL_DATA_DIR= # later\n").settings.data_dir is None
    assert resolved(".env", "GRAIL_DATA_DIR=#1\n").settings.data_dir == Path("#1").absolute()


def test_a_name_like_one_of_ours_is_told_with_its_line_and_others_pass() -> None:
    content = "GRAIL_NETWROK=x\nR2_BUKET_ID=y\nnetuid=7\nR2_ACCESS_KEY_ID=z\nGRAIL_ZZZZZZZZZ=\nBT_WALLET_PASSWORD=p\nHOMES=/\n"
    content += "AWS_SECRET_ACCESS_KEY=a\nAWS_REGION=b\nWANDB_MODE=offline\nPATH=/bin\n"
    told = [str(one) for one in resolved(".env", content).unknown]
    assert told == [
        ".env, line 1: no setting is called GRAIL_NETWROK; did you mean GRAIL_NETWORK?",
        ".env, line 2: no setting is called R2_BUKET_ID; did you mean R2_BUCKET_ID?",
        ".env, line 3: no setting is called netuid; did you mean NETUID?",
        ".env, line 4: no setting is called R2_ACCESS_KEY_ID; did you mean R2_READ_ACCESS_KEY_ID?",
        ".env, line 5: no setting is called GRAIL_ZZZZZZZZZ",
    ]


def test_what_only_the_environment_can_say_may_stand_in_a_file_that_fills_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRAIL_SANDBOX", "auto")
    assert not resolved(".env", "GRAIL_SANDBOX=auto\n").unknown
    assert "environment alone" in refused("grail.toml", 'GRAIL_SANDBOX = "auto"\n').what


# --- TOML ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "where", "says"),
    [
        ("[grail]\nNETUID = 7\n", "grail.toml, line 1", "top level"),
        ("NETUID = 7\n\n[[buckets]]\na = 1\n", "grail.toml, line 3", "top level"),
        ("NETUID = 7\ngrail.netuid = 8\n", "grail.toml, line 2", "top level"),
        ('\nGRAIL_NETWROK = "x"\n', "grail.toml, line 2", "no setting is called GRAIL_NETWROK"),
        ("netuid = 7\n", "grail.toml, line 1", "no setting is called netuid"),
        ('NETUID = 7\n"QUOTED KEY" = 1\n', "grail.toml, line 2", "QUOTED KEY"),
        ('BT_NETWORK = """\nstray = 1\n"""\nstray = 2\n', "grail.toml, line 4", "no setting is called stray"),
        ("NETUID = true\n", "grail.toml, line 1", "whole number"),
        ("NETUID = 7.0\n", "grail.toml, line 1", "whole number"),
        ("NETUID = 70000\n", "grail.toml, line 1", "whole number"),
        (f"NETUID = 0x{'f' * 9000}\n", "grail.toml, line 1", "whole number"),
        ("NETUID = [7]\n", "grail.toml, line 1", "whole number"),
        ("BT_NETWORK = 7\n", "grail.toml, line 1", "a text"),
        ("GRAIL_LOG_FILE = 2020-01-01\n", "grail.toml, line 1", "a text"),
        ("R2_WRITE_SECRET_ACCESS_KEY = 7\n", "grail.toml, line 1", "a text"),
        ("NETUID = 7\nNETUID = 8\n", "grail.toml, line 2", "already"),
        ("NETUID = 7\nBT_NETWORK = test\n", "grail.toml, line 2", "no TOML"),
        ('NETUID = 7\nBT_NETWORK = "test', "grail.toml, line 2", "no TOML"),
        ("NETUID: 7\n", "grail.toml, line 1", "no TOML"),
        ('GRAIL_CONFIG = "x"\n', "grail.toml, line 1", "environment alone"),
        ("x = " + "[" * 8000, "grail.toml", "nested"),
    ],
)
def test_a_toml_file_holds_settings_at_its_top_level_and_nothing_else(content: str, where: str, says: str) -> None:
    error = refused("grail.toml", content)
    assert error.where == where
    assert says in error.what


def test_the_nearest_name_of_an_unknown_key_is_told() -> None:
    assert "GRAIL_NETWORK" in refused("grail.toml", 'GRAIL_NETWROK = "x"\n').hint
    assert "NETUID" in refused("grail.toml", "netuid = 7\n").hint


def test_a_byte_order_mark_and_windows_lines_are_read_in_toml_too() -> None:
    assert resolved("grail.toml", b"\xef\xbb\xbfNETUID = 7\r\n").settings.netuid == 7


# --- what lies there instead of a file of UTF-8 -------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [".env", "grail.toml"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("NETUID=7\n".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + "NETUID=7\n".encode("utf-16-be"), "UTF-16"),
        ("NETUID=7\n".encode("utf-16-le"), "UTF-16"),
        ("NETUID=7\n".encode("utf-16-be"), "UTF-16"),
        ("NETUID=7\n".encode("utf-32"), "UTF-32"),
        (b"NETUID=7\nBT_NETWORK=te\0st # a longer line of text\n", "NUL"),
        (b'NETUID=7\nBT_NETWORK="Z\xfcrich"\n', "not UTF-8"),
    ],
)
def test_another_encoding_is_named(file: str, content: bytes, says: str) -> None:
    error = refused(file, content)
    assert says in error.what
    assert error.where.startswith(file)
    assert "UTF-8" in error.hint
    if b"\n" in content[:-2] and not says.startswith("UTF"):
        assert error.where == f"{file}, line 2"


@pytest.mark.parametrize("file", [".env", "grail.toml"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "dangling", "device", "huge", "socket"])
def test_what_is_no_readable_file_is_an_error_at_once(file: str, kind: str) -> None:
    path = Path(file)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to("nothing")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        import socket

        socket.socket(socket.AF_UNIX).bind(file)
    else:
        path.write_bytes(b"#\n" * max(MAX_DOTENV_BYTES, MAX_TOML_BYTES))
    with pytest.raises(ConfigurationError) as caught:
        resolve()
    assert (caught.value.where, bool(caught.value.hint)) == (file, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_an_error() -> None:
    Path(".env").touch(mode=0)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        resolve()


def test_a_virtual_environment_that_is_called_env_is_left_alone() -> None:
    Path(".env").mkdir()
    Path(".env/pyvenv.cfg").touch()
    assert resolve().origins == {}


@pytest.mark.parametrize("named", ["none.toml", ".", "\x01", "x" * 5000, "'grail.toml'"])
def test_grail_config_names_a_file_or_is_an_error(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_CONFIG", named)
    with pytest.raises(ConfigurationError):
        resolve()


# --- values of the environment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('"test"', "quote"),
        ("'test'", "quote"),
        ("'test", "quote"),
        ("te\x07st", r"\x07"),
        ("te\nst", r"\n"),
        ("te\ufeffst", r"\ufeff"),
        ("te\udcffst", "not UTF-8"),
    ],
)
def test_a_value_that_cannot_be_meant_is_an_error(value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_NETWORK", value)
    with pytest.raises(ConfigurationError) as caught:
        resolve()
    assert caught.value.where == "environment"
    assert says in caught.value.what


def test_blanks_around_a_value_do_not_count_and_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_NETWORK", "\ttest\r")
    monkeypatch.setenv("NETUID", " 7 ")
    monkeypatch.setenv("GRAIL_CACHE_DIR", "~/cache")
    monkeypatch.setenv("HOME", "/home/somebody")
    found = resolve().settings
    assert (found.bt_network, found.netuid, str(found.cache_dir)) == ("test", 7, "/home/somebody/cache")


def test_a_path_is_the_same_in_whatever_folder_a_child_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine's server works in its state folder, a proof worker in the root: both are told of paths."""
    for folder in ("here/bin", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "here/bin/python").symlink_to(sys.executable)  # as an environment has it
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GRAIL_SGLANG_PYTHON", "bin/python")
    monkeypatch.setenv("GRAIL_STATE_DIR", "state")
    found = resolve().settings
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (found.sglang_python, found.state_dir) == (tmp_path / "here/bin/python", tmp_path / "here/state")


def test_names_of_the_environment_are_told_without_trusting_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_\x1b[31m" + "x" * 5000, "1")
    monkeypatch.setenv("R2_BUKET_ID", "1")
    told = [str(one) for one in resolve().unknown]
    assert any("did you mean R2_BUCKET_ID?" in one for one in told)
    assert all(one.isprintable() and len(one) < 200 for one in told)


# --- secrets ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".env", f"R2_WRITE_SECRET_ACCESS_KEY: {SECRET}\n"),
        (".env", f"R2_WRITE_SECRET_ACCESS_KEY '{SECRET}'\n"),
        (".env", f"R2_WRITE_SECRET_ACCESS_KEY='{SECRET}\n"),
        (".env", f'R2_WRITE_SECRET_ACCESS_KEY="{SECRET}" {SECRET}\n'),
        (".env", f"R2_WRITE_SECRET_ACCESS_KEY=\n{SECRET}\n"),
        (".env", f"R2_WRITE_SECRET_ACCESS_KEY={SECRET}\x07\n"),
        (".env", f"R2_WRITE_SECRET_ACCESS_KEY={SECRET}\nNETUID={SECRET}\n"),
        (".env", f"R2_WRITE_SECRET_ACCESS_KEY={SECRET}\nGRAIL_PIPELINE_BACKEND={SECRET}\n"),
        (".env", f"R2_WRITE_SECRET_ACCESS_KEY={SECRET}".encode("utf-16").decode("latin-1")),
        ("grail.toml", f"R2_WRITE_SECRET_ACCESS_KEY = {SECRET}\n"),
        ("grail.toml", f'R2_WRITE_SECRET_ACCESS_KEY = ["{SECRET}"]\n'),
        ("grail.toml", f'R2_WRITE_SECRET_ACCESS_KEY = {{ key = "{SECRET}" }}\n'),
        ("grail.toml", f'R2_WRITE_SECRET_ACCESS_KEY = "{SECRET}\n'),
        ("grail.toml", f'R2_WRITE_SECRET_ACCESS_KEY = "\\{SECRET}"\n'),
        ("grail.toml", f'R2_WRITE_SECRET_ACCESS_KEY = "{SECRET}"\nNETUID = "{SECRET}"\n'),
        ("grail.toml", f'stray = "{SECRET}"\n'),
    ],
)
def test_no_error_and_no_traceback_repeats_a_value(file: str, content: str) -> None:
    import traceback

    Path(file).write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        resolve()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_keys_within_urls_are_masked_where_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_CHAIN_ENDPOINT", f"wss://me:{SECRET}@node.example/ws?apikey={SECRET}")
    shown = {name: value for name, value, _ in resolve().rows()}
    assert shown["BT_CHAIN_ENDPOINT"] == "wss://***@node.example/***"


# --- the grammar, by its own words --------------------------------------------------------------------------------------------

BLANK = "[ \t]*"
NAME = "[A-Za-z_][A-Za-z0-9_.-]*"
COMMENT = f"(?:{BLANK}|[ \t]+#.*)"
LINE = re.compile(
    f"{BLANK}(?:#.*)?"
    f"|{BLANK}(?:export[ \t]+)?(?P<name>{NAME}){BLANK}={BLANK}"
    rf"""(?:'(?P<single>[^']*)'{COMMENT}|"(?P<double>(?:[^"\\]|\\.)*)"{COMMENT}|(?P<plain>(?!['"]).*))""",
    re.DOTALL,
)
PIECES = st.sampled_from(
    ["NETUID", "export ", "A", "_b", "=", " ", "\t", "'", '"', "#", "\\", "$", "7", "x y", ":", "\n", "\r\n", "\r", "é", "\x00"]
)
texts = st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=60)


@given(texts)
@example('A=\'x\' #\nA="\\"" ')
@settings(max_examples=500, deadline=None)
def test_any_text_is_what_the_grammar_says_or_names_its_faulty_lines(text: str) -> None:
    assignments, faults = parse(text)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    faulty = {fault.line for fault in faults}
    by_line = {one.line: one for one in assignments}
    assert len(by_line) == len(assignments)
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        control = any((ord(char) < 32 and char != "\t") or 127 <= ord(char) < 160 for char in line.strip(" \t"))
        assert (number in faulty) == (match is None or control), repr(line)
        if number in faulty or match is None or match["name"] is None:
            assert number not in by_line
            continue
        assert (by_line[number].name, by_line[number].value) == (match["name"], meant(match, line))


def meant(match: re.Match[str], line: str) -> str:
    if match["single"] is not None:
        return match["single"]
    if match["double"] is not None:
        return re.sub(r'\\(["\\$`])', r"\1", match["double"])
    return re.sub(r"[ \t]#.*", "", line[line.index("=") + 1 :], count=1, flags=re.DOTALL).strip(" \t")


values = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)


@given(st.lists(values, min_size=1, max_size=5))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_quoted_line_means_to_a_shell_what_it_means_here(chosen: list[str]) -> None:
    lines = []
    for index, value in enumerate(chosen):
        if "'" not in value:
            lines.append((f"V{index}='{value}'", value))
        escaped = re.sub(r'(["\\$`])', r"\\\1", value)
        lines.append((f'export W{index}="{escaped}" # why', value))
    text = "".join(line + "\n" for line, _ in lines)
    assignments, faults = parse(text)
    assert [one.value for one in assignments] == [value for _, value in lines]
    assert not faults
    Path("lines").write_text(text, encoding="utf-8")
    names = " ".join(f'"${one.name}"' for one in assignments)
    ran = subprocess.run(["sh", "-c", rf'. ./lines; printf "%s\0" {names}'], capture_output=True, check=True)
    assert ran.stdout.decode().split("\0")[:-1] == [value for _, value in lines]


files = st.binary(max_size=300) | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))


@given(st.sampled_from([".env", "grail.toml"]), files)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_settings_or_a_configuration_error(file: str, content: bytes) -> None:
    for name in (".env", "grail.toml"):
        Path(name).unlink(missing_ok=True)
    Path(file).write_bytes(content)
    error = error_of_resolving()
    assert error is None or (error.where.startswith(file) and error.hint)


def error_of_resolving() -> ConfigurationError | None:
    try:
        resolve()
    except ConfigurationError as error:
        return error
    return None


def test_an_assignment_knows_its_line() -> None:
    Path("x").write_text("\n# a\nA=1\n")
    assert read_dotenv(Path("x")) == [Assignment("A", "1", 3)]


def test_a_word_before_a_colon_is_told_only_where_it_is_a_settings_name() -> None:
    """It may be a key, with its secret behind the colon."""
    told = {line: parse(line)[1][0].what for line in ("AKIA123:abc", "NETUID: 7", "R2_BUCKET_ID: x")}
    assert "AKIA123" not in told["AKIA123:abc"]
    assert told["NETUID: 7"] == "NETUID is followed by a colon, not by ="
    assert "R2_BUCKET_ID" in told["R2_BUCKET_ID: x"]
