"""What may stand beside the weights: plain configuration and tokenizer files, and templates that are pure.

Nothing that is code is published or accepted: no pickles, no Python, no `auto_map` that would make a loader import some. A
chat template is a program too; one that reads a clock or draws at random would give two participants two prompts, so it is
refused. File names are single path components from a closed list of forms.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.errors import CheckpointError
from grail_core.model.chat_template import probe_template
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest

MAX_FILE_BYTES = 64 << 20
"""Of a tokenizer's own files; what the others may have says `_SMALL_FILES`."""
CONFIG_FILE = "config.json"
TEMPLATE_FILE = "chat_template.jinja"

_TOKENIZER_FILES = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
}
_OTHER_FILES = {CONFIG_FILE, "generation_config.json", TEMPLATE_FILE}
ALLOWED_FILES = frozenset(_TOKENIZER_FILES | _OTHER_FILES)
_SMALL_FILES = {
    CONFIG_FILE: 1 << 20,
    "generation_config.json": 1 << 20,
    TEMPLATE_FILE: 1 << 20,
    "tokenizer_config.json": 8 << 20,
}

_CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
_IMPURE_NAMES = {"strftime_now", "now", "utcnow", "today", "datetime", "time", "date", "lipsum", "random", "uuid", "environ"}
_IMPURE_FILTERS = {"random"}


@dataclass(frozen=True)
class ModelFiles:
    """The checked files of a model folder, weights aside."""

    files: Mapping[str, bytes]
    architecture: str
    tokenizer_digest: Digest
    chat_template_digest: Digest


def read_model_files(folder: Path) -> ModelFiles:
    """Read and check the files of a Transformers folder that belong in a checkpoint; others are left out.

    Raises:
        CheckpointError: no config, a file too large, or one that is refused (see `check_model_files`).
    """
    files = {}
    for name in sorted(ALLOWED_FILES):
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(f"the file is larger than {MAX_FILE_BYTES} bytes", where=str(path))
        files[name] = path.read_bytes()
    return check_model_files(files, where=str(folder))


def check_model_files(files: Mapping[str, bytes], *, where: str = "model files") -> ModelFiles:
    """Check files by name and bytes.

    Raises:
        CheckpointError: a name outside the closed list, a JSON file that is none, a key that asks for code, an unknown
            architecture field, or a template that is not pure.
    """
    parsed: dict[str, Any] = {}
    for name, data in files.items():
        if name not in ALLOWED_FILES:
            raise CheckpointError(
                "this file is not one a checkpoint may hold",
                where=f"{where}: {name!r}",
                hint="only configuration and tokenizer files are allowed; code and pickles never are",
            )
        most = _SMALL_FILES.get(name, MAX_FILE_BYTES)
        if len(data) > most:
            raise CheckpointError(f"the file has {len(data)} bytes, the limit is {most}", where=f"{where}: {name}")
        if name.endswith(".json"):
            parsed[name] = _json(data, f"{where}: {name}")
    config = parsed.get(CONFIG_FILE)
    if not isinstance(config, dict):
        raise CheckpointError("there is no config.json that is an object", where=where)
    for name in (CONFIG_FILE, "tokenizer_config.json", "generation_config.json"):
        _refuse_code(parsed.get(name), f"{where}: {name}")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1 or not re.fullmatch(r"\w{1,128}", str(architectures[0])):
        raise CheckpointError("config.json does not name one architecture", where=where)
    template = _template(files, parsed)
    for text in template.values():
        check_template(text, where=f"{where}: chat template")
    if "default" in template:  # the one that prompts are rendered with
        probe_template(template["default"], where=f"{where}: chat template")
    tokenizer = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name in _TOKENIZER_FILES}
    return ModelFiles(
        files=dict(files),
        architecture=str(architectures[0]),
        tokenizer_digest=Digest(hashlib.sha256(canonical_json(tokenizer)).digest()),
        chat_template_digest=Digest(hashlib.sha256(canonical_json(template)).digest()),
    )


def check_template(text: str, *, where: str) -> None:
    """Refuse a chat template whose output is not a function of its arguments, or that imports another one.

    Raises:
        CheckpointError: it does not parse, names a clock, a random source or the environment, or includes another template.
    """
    import jinja2
    from jinja2 import nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", text))
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        raise CheckpointError(f"the chat template does not parse: {error}", where=where) from error
    names = {node.name for node in tree.find_all(nodes.Name)}
    names |= {str(node.attr) for node in tree.find_all(nodes.Getattr)}
    names |= {str(node.arg.value) for node in tree.find_all(nodes.Getitem) if isinstance(node.arg, nodes.Const)}
    called = {node.node.name for node in tree.find_all(nodes.Call) if isinstance(node.node, nodes.Name)}
    variables = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
    impure = (names & {"strftime_now", "utcnow", "lipsum"}) | ((called | _called_attributes(tree)) & _IMPURE_NAMES)
    impure |= {node.name for node in tree.find_all(nodes.Filter)} & _IMPURE_FILTERS
    impure |= variables & {"datetime", "environ"}
    impure |= {name for name in names if name.startswith("__")}
    if impure:
        raise CheckpointError(
            f"the chat template is not pure: it uses {', '.join(sorted(impure))}",
            where=where,
            hint="write the date (or whatever it reads) into the template as text; prompts must be the same for everybody",
        )
    for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
        if next(tree.find_all(kind), None) is not None:
            raise CheckpointError("the chat template imports another template", where=where)


def _called_attributes(tree: Any) -> set[str]:
    from jinja2 import nodes

    return {str(node.node.attr) for node in tree.find_all(nodes.Call) if isinstance(node.node, nodes.Getattr)}


def _template(files: Mapping[str, bytes], parsed: Mapping[str, Any]) -> dict[str, str]:
    """Every chat template by name; the file outranks the tokenizer's configuration, as in Transformers."""
    templates: dict[str, str] = {}
    config = parsed.get("tokenizer_config.json")
    value = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(value, str):
        templates["default"] = value
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                templates[str(item.get("name"))] = str(item.get("template"))
    if TEMPLATE_FILE in files:
        try:
            templates["default"] = files[TEMPLATE_FILE].decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError("the chat template is not UTF-8", where=TEMPLATE_FILE) from error
    return templates


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_distinct_members)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the file is no JSON: {error}", where=where) from error


def _distinct_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two members of one name, one reader takes the first and another the last."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _refuse_code(value: Any, where: str) -> None:
    """Nested configurations too, which load through the same classes."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left.extend(one)
        elif isinstance(one, dict):
            left.extend(one.values())
            asked = [key for key in _CODE_KEYS if one.get(key)]
            if asked:
                raise CheckpointError(
                    f"the file asks for code to be loaded ({asked[0]})",
                    where=where,
                    hint="convert the model to an architecture that Transformers knows; remote code is never trusted",
                )
