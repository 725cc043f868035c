"""A network with its vocabulary: stored, found by name, shared, and read from the authors' file."""

from __future__ import annotations
