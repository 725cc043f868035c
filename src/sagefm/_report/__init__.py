"""One page on one section or several: what was read, what was found, how sure it is, and how to reproduce it."""

from __future__ import annotations

from sagefm._report._write import report

__all__ = ["report"]
