"""The one console that commands print tables and lines with: nobody's text is taken for markup, or reaches the terminal raw.

Rich reads `[/x]` in a string as markup, `:name:` as a picture, and passes escape sequences on. Here styles come by `Text` and
`style=` alone, and every string is made fit (`grail_core.text`): before it is measured where it came as a string, and once more
as it goes out, whatever brought it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Task, TextColumn
from rich.segment import Segment
from rich.text import Text

from grail_core.text import printable, printable_lines

_LEAST_ROOM = 20  # columns for a sentence's words, however narrow the terminal
_MOST = 1_000_000  # characters of one string; tables cut long cells themselves


class PlainConsole(Console):
    """Rich's console without markup, emoji codes and highlighting. Takes Rich's other arguments."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, text: str, *, hang: int = 2) -> None:
        """A sentence for a person: folded between words on a terminal, whole in a pipe or a file, where it is searched for.

        What it begins with of blanks is kept on every line; those after the first stand `hang` columns further in.
        """
        if not self.is_terminal:
            self.print(text, soft_wrap=True)
            return
        words = text.lstrip(" ")
        first = " " * (len(text) - len(words))
        room = max(_LEAST_ROOM, self.width - len(first) - hang)
        lines = self.render_str(words).wrap(self, room, tab_size=1)
        for number, line in enumerate(lines):
            self.print(first + " " * (hang if number else 0) + line.plain.rstrip(), soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        options |= {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(printable_lines(text, _MOST), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:  # Rich's own, of a live table
                yield segment
            else:
                yield Segment(printable_lines(segment.text, _MOST), segment.style)


class PlainColumn(TextColumn):
    """A progress bar's text: the task's description, or one of its fields, without markup."""

    def __init__(self, field: str = "") -> None:
        super().__init__("", markup=False)
        self._field = field

    def render(self, task: Task) -> Text:
        return Text(printable(task.fields.get(self._field, "") if self._field else task.description))
