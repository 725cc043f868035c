"""How a command runs: errors to messages and exit codes, warnings and summaries to lines or JSON."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from sagefm.errors import ModelNotFoundError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTERRUPTED = 130  # 128 + SIGINT, as shells do
#: Entries of ``ctx.meta``, which a command shares with the group: two flags, facts kept for JSON, warnings shown.
_DEBUG, _SILENT, _FACTS, _SEEN = "sagefm.debug", "sagefm.silent", "sagefm.facts", "sagefm.seen"


class SagefmGroup(click.Group):
    """A group whose commands end with 1 and a message where they raise a :class:`~sagefm.errors.SagefmError`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of work, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see the class."""
        try:
            with _quiet(ctx):
                result = super().invoke(ctx)
                emit()
                return result
        except SagefmError as error:
            if ctx.meta.get(_DEBUG):
                raise
            message = str(error)
            if isinstance(error, ModelNotFoundError):
                message += "\nOn the command line: sagefm train SECTION -o MODEL_DIR, then -m MODEL_DIR."
            raise click.ClickException(message) from error
        except KeyboardInterrupt:
            _interrupted(ctx)
        except SystemExit as error:
            # Lightning turns Ctrl-C into an exit with status 1.
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            _interrupted(ctx)


def debug_option(command: Any) -> Any:
    """Add ``--debug`` to a command."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        ctx.meta[_DEBUG] = value

    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=remember, help="Show the traceback of an error."
    )(command)


def json_option(command: Any) -> Any:
    """Add ``--json`` to a command."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        ctx.meta[_FACTS] = {} if value else None

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember,
        help="Print the summary as JSON, an object and a line for each input.",
    )(command)  # fmt: skip


def is_debugging() -> bool:
    """Return whether the traceback of an error is wanted."""
    return bool(click.get_current_context().meta.get(_DEBUG))


def begin(**facts: Any) -> None:
    """Begin the summary of an input: its warnings are shown again, `facts` are kept for JSON."""
    meta = click.get_current_context().meta
    meta[_SEEN].clear()
    if meta.get(_FACTS) is not None:
        meta[_FACTS].update(facts)


def say(text: str, **facts: Any) -> None:
    """Print a line; with ``--json``, keep the facts in it for :func:`emit` instead."""
    meta = click.get_current_context().meta
    kept = meta.get(_FACTS)
    if kept is not None:
        kept.update(facts)
    elif text and not meta.get(_SILENT):
        click.echo(text)


def leave_to_first() -> None:
    """Leave the summary to the first of the processes that train together."""
    from lightning.pytorch.utilities import rank_zero_only

    click.get_current_context().meta[_SILENT] = getattr(rank_zero_only, "rank", 0) > 0


def report(label: str, text: str = "", **facts: Any) -> None:
    """Print a line of a summary: a label of fixed width, then text, which is the fact if there are no others."""
    say(f"  {label:<24} {text}".rstrip(), **(facts or {label.replace(" ", "_"): text}))


def emit() -> None:
    """With ``--json``, print the facts that were kept, on a line; NaN is null."""
    meta = click.get_current_context().meta
    kept = meta.get(_FACTS)
    if kept and not meta.get(_SILENT):
        click.echo(json.dumps({key: None if value != value else value for key, value in kept.items()}))
        kept.clear()


@contextmanager
def _quiet(ctx: click.Context) -> Iterator[None]:
    """Show this package's warnings as lines, once each, and those of other packages not at all."""
    seen = ctx.meta.setdefault(_SEEN, set())

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            click.echo(f"Warning: {message}", err=True)
            if ctx.meta.get(_FACTS) is not None:
                ctx.meta[_FACTS].setdefault("warnings", []).append(str(message))

    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"sagefm(\.|$)")
        warnings.showwarning = show
        # spatialdata and squidpy log to stdout, which is for results.
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(before)


def _interrupted(ctx: click.Context) -> None:
    click.echo("Interrupted.", err=True)
    ctx.exit(_INTERRUPTED)
