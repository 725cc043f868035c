"""How a command runs: errors to messages and exit codes, warnings to lines."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from sagefm.errors import ModelNotFoundError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTERRUPTED = 130  # 128 + SIGINT, as shells do
_DEBUG = "sagefm.debug"


class SagefmGroup(click.Group):
    """A group whose commands end with 1 and a message where they raise a :class:`~sagefm.errors.SagefmError`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of work, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see the class."""
        try:
            with _quiet(ctx):
                return super().invoke(ctx)
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


def report(label: str, text: str = "") -> None:
    """Print a line of a summary: a label of fixed width, then text."""
    click.echo(f"  {label:<24} {text}".rstrip())


@contextmanager
def _quiet(ctx: click.Context) -> Iterator[None]:
    """Show this package's warnings as lines, once each, and those of other packages not at all."""
    seen = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            click.echo(f"Warning: {message}", err=True)

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
