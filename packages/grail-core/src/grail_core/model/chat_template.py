"""The chat template as a program: one environment, for whoever checks a template and for whoever renders with it.

The environment is that of Transformers' `apply_chat_template` (5.23: filters, globals, extensions, trimming), rebuilt so that
prompts do not depend on the version installed, without its clock and its random sources. A template that asks for these is
refused, since prompts must be the same for everybody on every day. So is one that names the date without giving it a default:
nobody passes a date here or there. A sandbox keeps a template from files and from Python; it does not keep it from looping or
from building gigabytes: that is tried out in `prompt_trial`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from grail_core.errors import CheckpointError

MAX_TEMPLATE_BYTES = 1 << 20

_CLOCK = "strftime_now"
# Names by which published templates ask for the time of whoever renders.
_DATES = frozenset({"date_string", "now", "today", "current_date", "datetime", "date"})
_IMPURE_FILTERS = frozenset({"random"})
_IMPURE_GLOBALS = frozenset({"lipsum"})
_DEFAULTS = frozenset({"default", "d"})


def compile_template(template: str, *, where: str) -> Any:
    """A `jinja2.Template` in a sandbox, without clocks and random sources.

    Raises:
        CheckpointError: it is too long, does not compile, reads a clock, draws at random, or imports another template.
    """
    from jinja2 import TemplateError

    if len(template.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        raise CheckpointError(
            f"the chat template has more than {MAX_TEMPLATE_BYTES} bytes", where=where, hint="use a shorter one"
        )
    environment = _environment()
    try:
        tree = environment.parse(template)
        _refuse_impure(tree, where)
        return environment.from_string(template)
    except (TemplateError, RecursionError, SyntaxError, OverflowError, ValueError) as error:
        line = getattr(error, "lineno", None)
        at = f" (line {line})" if isinstance(line, int) and "line " not in str(error) else ""
        raise CheckpointError(
            f"the chat template does not compile: {' '.join(str(error)[:300].split())}{at}",
            where=where,
            hint=f"mend the template{at or ' there'}: what Jinja says of it stands above",
        ) from error


def literal_text(template: str) -> str:
    """What a template writes by itself: its text and the string constants of its expressions, joined by null characters.

    A token that occurs in it is one that the template writes (Transformers reads `sanitize_control_tokens` the same way).
    """
    from jinja2 import nodes

    tree = _environment().parse(template)
    found = [node.data for node in tree.find_all(nodes.TemplateData)]
    found += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(found)


def _environment() -> Any:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_blocks(), loopcontrols]
    )
    for name in _IMPURE_FILTERS:
        environment.filters.pop(name, None)
    for name in _IMPURE_GLOBALS:
        environment.globals.pop(name, None)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["dict"] = _Dictionaries()
    environment.globals["namespace"] = _namespace()
    return environment


def _generation_blocks() -> Any:
    """The tag `{% generation %}`, which marks what an assistant said: a block with a scope of its own, its text unchanged."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012 - as the base class declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> Any:
            return caller()

    return GenerationBlocks


class _Dictionaries:
    """`dict` as templates have it: something to call, and `fromkeys`."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _namespace() -> Any:
    """Jinja's `namespace`, without attributes that begin with an underscore."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class PublicNamespace(Namespace):
        def __init__(*args: Any, **kwargs: Any) -> None:
            self, rest = args[0], args[1:]
            attributes = dict(*rest, **kwargs)
            for name in attributes:
                _refuse_private(name)
            Namespace.__init__(self, attributes)

        def __setitem__(self, name: Any, value: Any) -> None:
            _refuse_private(name)
            super().__setitem__(name, value)

    def _refuse_private(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace has no attribute {name!r}")

    return PublicNamespace


def _raise_exception(message: Any) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse_impure(tree: Any, where: str) -> None:
    """Refuse a template whose text would not be a function of messages and folder alone."""
    from jinja2 import meta, nodes

    for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
        if next(tree.find_all(kind), None) is not None:
            raise CheckpointError(
                "the chat template imports another template", where=where, hint="write what it imports into it"
            )
    asked = meta.find_undeclared_variables(tree)
    clocks = asked & ({_CLOCK} | {name for name in _DATES & asked if not _has_default(tree, name)})
    if clocks:
        raise CheckpointError(
            f"the chat template reads a clock ({', '.join(sorted(clocks))}), so prompts would differ from day to day",
            where=where,
            hint="write the date into the template, as a text that stays",
        )
    impure = (asked & _IMPURE_GLOBALS) | ({node.name for node in tree.find_all(nodes.Filter)} & _IMPURE_FILTERS)
    impure |= {name for name in _names(tree) if name.startswith("__")}
    if impure:
        raise CheckpointError(
            f"the chat template does not compile: it is not pure, it uses {', '.join(sorted(impure))}",
            where=where,
            hint="prompts must be the same for everybody: leave out what is random or Python's own",
        )


def _names(tree: Any) -> Iterator[str]:
    """Variables, attributes and constant keys."""
    from jinja2 import nodes

    yield from (node.name for node in tree.find_all(nodes.Name))
    yield from (str(node.attr) for node in tree.find_all(nodes.Getattr))
    yield from (str(node.arg.value) for node in tree.find_all(nodes.Getitem) if isinstance(node.arg, nodes.Const))


def _has_default(tree: Any, name: str) -> bool:
    """Whether a template says what stands for a variable that nobody passes: it sets it, or names another value."""
    from jinja2 import nodes

    def is_it(node: Any) -> bool:
        return isinstance(node, nodes.Name) and node.name == name

    if any(is_it(node) and node.ctx in ("store", "param") for node in tree.find_all(nodes.Name)):
        return True
    if any(node.name in _DEFAULTS and is_it(node.node) for node in tree.find_all(nodes.Filter)):
        return True
    if any(is_it(node.left) for node in tree.find_all(nodes.Or)):
        return True
    for choice in tree.find_all((nodes.If, nodes.CondExpr)):
        other = choice.else_ if isinstance(choice, nodes.If) else choice.expr2
        if any(is_it(node) for node in choice.test.find_all(nodes.Name)) or is_it(choice.test):
            negated = isinstance(choice.test, nodes.Not)
            if other or negated:
                return True
    return False
