"""Long campaigns, run when they are named: ``pytest -m reliability``, or each by its command."""

from __future__ import annotations

import os

# Before torch is imported.
for variable, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MPLBACKEND": "Agg"}.items():
    os.environ.setdefault(variable, value)
