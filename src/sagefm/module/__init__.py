"""Networks, masks and losses on tensors. Knows no AnnData and imports no scverse package."""

from __future__ import annotations
