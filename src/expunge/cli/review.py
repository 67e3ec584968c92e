"""The names that documents have for a subject: shown, and with ``--review`` confirmed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from expunge.cli.display import error_console
from expunge.distributed import is_main, on_main
from expunge.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from expunge.commands.forget import Review
    from expunge.requests.documents.aliases import Alias

_EXAMPLES = 2
_REFUSED = (
    "nothing was done: the names were not confirmed. Name those to use with --alias, and leave the others out with "
    "request.propose=false."
)


def reviewer(*, ask: bool, yes: bool) -> Review:
    """Shows the names on standard error; where ``ask``, as a table with examples that has to be confirmed, unless
    ``yes``.

    Raises:
        ConfigError: there is no terminal to ask at, or the answer is no.
    """

    def review(names: Mapping[str, tuple[Alias, ...]], aliases: tuple[str, ...]) -> None:
        if ask and not yes and is_main() and not sys.stdin.isatty():
            raise ConfigError(
                "--review asks whether the names are right, and there is no terminal to ask at. Pass --yes to take "
                "them as they are, or leave --review out."
            )
        if is_main():
            _show(names, aliases, whole=ask)
        if ask and not yes and not on_main(lambda: typer.confirm("Use these names?", err=True)):
            raise ConfigError(_REFUSED)

    return review


def _show(names: Mapping[str, tuple[Alias, ...]], aliases: tuple[str, ...], *, whole: bool) -> None:
    console = error_console()
    for subject, forms in names.items():
        if whole:
            console.print(_table(subject, forms, aliases))
            continue
        counts = {form.text: form.count for form in forms}
        used = [f"{alias} ({counts[alias]})" for alias in aliases if alias in counts]
        said = f"{subject} ({counts.get(subject, 0)} times in the documents)"
        said += f", also as {', '.join(used)}" if used else ", under no other name"
        console.print(f"names: {said}", markup=False, highlight=False)
        for form in forms:
            if form.warning:
                how = "used as it was given" if form.text in aliases else f"not used (--alias '{form.text}' uses it)"
                console.print(f"  {form.text} ({form.count}): {how}: {form.warning}", markup=False, highlight=False)


def _table(subject: str, forms: tuple[Alias, ...], aliases: tuple[str, ...]) -> Table:
    """A line for each form, with what speaks against it or where it stands."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Names of {escape(subject)} in the documents", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("name", max_width=20, overflow="fold")
    table.add_column("kind")
    table.add_column("count", justify="right")
    table.add_column("used")
    table.add_column("examples", ratio=1, overflow="fold")
    for form in forms:
        used = "yes" if form.text in (subject, *aliases) else "found" if form.covered else "no"
        warning = [f"! {form.warning}"] if form.warning else []
        examples = [f".. {context} .." for context in form.contexts[:_EXAMPLES]]
        table.add_row(
            escape(form.text), form.kind, str(form.count), used, escape("\n".join([*warning, *examples])) or "-"
        )
    table.caption = "found: another name that is used finds it"
    table.caption_justify = "left"
    return table
