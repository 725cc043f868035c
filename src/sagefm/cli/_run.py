"""How a command runs: errors become messages and exit codes, warnings and summaries become lines or JSON."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from sagefm._progress import ProgressBar
from sagefm._text import plain
from sagefm.errors import ModelNotFoundError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Signals that end a command, where Python does with them what it does by default, and what is said of them. The exit
#: code is 128 and the signal, as shells have it.
_SIGNALS = {
    signal.SIGINT: (signal.default_int_handler, "Interrupted."),
    signal.SIGTERM: (signal.SIG_DFL, "Terminated."),
}
#: Where spatialdata and squidpy log each call, to stdout, which is for results; and Lightning each process that trains.
_NOISY = ("spatialdata._logging", "lightning.fabric.utilities.distributed")


@dataclass
class Run:
    """What the options of a command say of its output, and the facts of the summary that is being printed."""

    debug: bool = False
    json: bool = False
    is_silent: bool = False
    stopped_by: signal.Signals | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class SagefmGroup(click.Group):
    """A group whose commands end with 1 and a message where they raise a :class:`~sagefm.errors.SagefmError`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of work, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        run = ctx.ensure_object(Run)
        try:
            with (
                _signals_kept(run),
                _warnings_as_lines(run),
                _without_info([logging.getLogger(name) for name in _NOISY]),
            ):
                result = super().invoke(ctx)
            emit()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort, Warning):
            # Click's own; and warnings, which are errors in the tests alone.
            raise
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if run.stopped_by is None and not isinstance(error, KeyboardInterrupt):
                if run.debug or isinstance(error, SystemExit):
                    raise
                raise click.ClickException(_message(error)) from error
            # Whatever a library made of it.
            number = run.stopped_by or signal.SIGINT
            click.echo("\n".join([_SIGNALS[number][1], *getattr(error, "__notes__", ())]), err=True)
            ctx.exit(128 + number)


def explain(error: BaseException) -> str:
    """Return what is said of an error; of one that is not ours, its kind, too."""
    return str(error) if isinstance(error, SagefmError) else plain(f"{type(error).__name__}: {error}")


def _message(error: BaseException) -> str:
    """Return what a command that fails says in the end."""
    if not isinstance(error, SagefmError):
        return f"{explain(error)}\nsagefm did not expect this. --debug shows where it comes from."
    if isinstance(error, ModelNotFoundError):
        return f"{error}\nOn the command line: without -m, the bundled model is used; sagefm train makes another."
    return str(error)


def _flag(name: str, text: str) -> Callable[[Any], Any]:
    """Return a flag that sets a field of :class:`Run`."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        setattr(ctx.ensure_object(Run), name, value)

    return click.option(f"--{name}", is_flag=True, expose_value=False, callback=remember, help=text)


debug_option = _flag("debug", "Show the traceback of an error.")
json_option = _flag("json", "Print the summary as JSON: one object per input, each on a line.")


def current_run() -> Run:
    """Return the state of the command that is running."""
    return click.get_current_context().ensure_object(Run)


def say(text: str, **facts: Any) -> None:
    """Print a line; with ``--json``, only keep the facts in it for :func:`emit`."""
    run = current_run()
    if run.stopped_by is not None:
        raise KeyboardInterrupt
    run.facts.update(facts)
    if text and not run.json and not run.is_silent:
        click.echo(plain(text))


def report(label: str, text: str = "", **facts: Any) -> None:
    """Print a line of a summary: a label of fixed width, then text, which is the fact if there are no others."""
    say(f"  {label:<24} {text}".rstrip(), **(facts or {label.replace(" ", "_"): text}))


def emit() -> None:
    """End the summary of an input: with ``--json``, print its facts on a line; NaN is null."""
    run = current_run()
    if run.facts and run.json and not run.is_silent:
        click.echo(json.dumps({key: None if value != value else value for key, value in run.facts.items()}))
    run.facts.clear()


def leave_to_first() -> None:
    """Leave the summary to the first of the processes that train together."""
    from lightning.pytorch.utilities import rank_zero_only

    current_run().is_silent = getattr(rank_zero_only, "rank", 0) > 0


@contextmanager
def _signals_kept(run: Run) -> Iterator[None]:
    """Raise KeyboardInterrupt for each of the signals, so that nothing half-written is left, and remember which it was.

    An exception in a callback of a library is dropped, and the command would go on.
    """

    def stop(number: int, _frame: Any) -> None:
        run.stopped_by = signal.Signals(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    defaults = {number: handler for number, (handler, _) in _SIGNALS.items() if signal.getsignal(number) == handler}
    report_dropped = sys.unraisablehook

    def say_nothing_of_interrupts(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            report_dropped(dropped)

    for number in defaults:
        signal.signal(number, stop)
    sys.unraisablehook = say_nothing_of_interrupts
    try:
        yield
    finally:
        sys.unraisablehook = report_dropped
        for number, handler in defaults.items():
            signal.signal(number, handler)


@contextmanager
def _warnings_as_lines(run: Run) -> Iterator[None]:
    """Show warnings attributed to this package as lines, once per input, and drop those of other packages."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        shown = run.facts.setdefault("warnings", [])
        if str(message) not in shown:
            shown.append(str(message))
            # A line of its own, above the bar that there may be.
            with ProgressBar.external_write_mode(file=sys.stderr):
                click.echo(plain(f"Warning: {message}"), err=True)

    with warnings.catch_warnings():
        # For deprecated calls of ours the filters that are set hold: by default hidden, in the tests errors.
        warnings.filterwarnings("ignore", module=r"(?!sagefm(\.|$))")
        warnings.filterwarnings("always", category=UserWarning, module=r"sagefm(\.|$)")
        warnings.showwarning = show
        yield


@contextmanager
def _without_info(loggers: list[logging.Logger]) -> Iterator[None]:
    """Silence loggers below warnings; by a filter, since their packages set their levels when they are imported."""
    is_warning = lambda record: record.levelno >= logging.WARNING
    for logger in loggers:
        logger.addFilter(is_warning)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_warning)
