"""What is odd about a table: found in one place, raised or told by the verbs, listed by :func:`sagefm.pp.check`."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sagefm.errors import SagefmError

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """Something about a table that would make a result wrong, or that its reader should know.

    Attributes
    ----------
    what
        A word for it, e.g. ``"background"``.
    severity
        ``"error"`` is refused, ``"warning"`` is read and told, ``"note"`` is read as it should be.
    message
        What was found, and what was expected or is read; it leads to the call that follows, if there is one.
    repair
        The call that repairs it, as Python.
    error
        Type that is raised, of an error.
    """

    what: str
    severity: Literal["error", "warning", "note"]
    message: str
    repair: str = ""
    error: type[SagefmError] = SagefmError

    def __str__(self) -> str:
        return f"{self.message}: {self.repair}" if self.repair else self.message


def tell(findings: Iterable[Finding], *, stacklevel: int) -> None:
    """Raise the first error; warn of warnings, `stacklevel` frames above the caller, and log notes."""
    findings = list(findings)
    for finding in findings:
        if finding.severity == "error":
            raise finding.error(str(finding))
    for finding in findings:
        if finding.severity == "warning":
            warnings.warn(str(finding), UserWarning, stacklevel=stacklevel + 1)
        else:
            logger.info("%s", finding)


def listed(names: Iterable[object], n: int = 3) -> str:
    """Return the first names as Python writes them, and dots for the others."""
    texts = [repr(str(name)) for name in names]
    return ", ".join(texts[:n]) + (", ..." if len(texts) > n else "")
