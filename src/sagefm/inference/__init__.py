"""A checkpoint and a section to arrays: embeddings, imputed values, perturbation scores."""

from __future__ import annotations
