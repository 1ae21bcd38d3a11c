"""Progress for people: a line on stderr, of the current step or of rows, and nothing where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None] | None]:
    """Something to tell each step's name to, or None where nobody watches."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status(Text(title)) as status:
        yield lambda step: status.update(Text(f"{title}: {step}"))


@contextmanager
def bar(title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Something to tell, from any thread, how many more rows are done; shows their rate and the time that is left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:,.0f} rows/s")

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda rows: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as shown:
        task = shown.add_task(title, total=total, completed=done)
        yield lambda rows: shown.advance(task, rows)
