"""The progress bar of all long work: in a terminal or a notebook, and gone when the work is done; elsewhere nothing."""

from __future__ import annotations

from threading import Timer
from time import time
from typing import Any, Final

from tqdm.auto import tqdm

#: Seconds before a bar is shown: shorter work shows none.
_DELAY: Final = 1.0


class ProgressBar(tqdm):
    """A bar that says what is being done, and how much of it is.

    Parameters
    ----------
    desc
        What is being done.
    total, unit
        How much there is to do, and in which unit. Without a total, `desc` alone is shown.
    progress
        False shows nothing.
    **options
        Other arguments of tqdm.
    """

    #: No thread that looks after all bars: each has a timer.
    monitor_interval = 0
    #: What is read of a bar that an interrupt has kept from being made.
    disable = True
    _timer: Timer | None = None
    _is_due = False

    def __init__(
        self, desc: str, total: int | None = None, unit: str = "step", *, progress: bool = True, **options: Any
    ) -> None:
        super().__init__(
            desc=desc,
            total=total,
            unit=unit,
            bar_format="{desc} ..." if total is None else None,
            leave=False,
            delay=_DELAY,
            miniters=1,
            smoothing=0,
            # None: where there is no terminal, nothing.
            disable=None if progress else True,
            **options,
        )
        if not self.disable:
            # Until the first unit is done, tqdm would show nothing.
            timer = Timer(_DELAY, self._show)
            timer.daemon = True
            timer.start()
            self._timer = timer

    def _show(self) -> None:
        self._is_due = True
        self.refresh()

    def refresh(self, *arguments: Any, **options: Any) -> None:
        """Draw the bar, unless it is too early."""
        if self.disable or (self.delay > 0 and not self._is_due):
            return
        # What tqdm takes for never shown it does not clear away.
        self.last_print_t = time()
        super().refresh(*arguments, **options)

    def close(self) -> None:
        """Take the bar away."""
        if not self.disable and self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            # In a notebook, a bar with less than its total would stay, in red.
            self.total = self.n
        super().close()
