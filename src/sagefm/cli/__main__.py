"""``python -m sagefm.cli``."""

from __future__ import annotations

from sagefm.cli import main

main(prog_name="sagefm")
