"""Tests of sagefm, and how far two computations of the same numbers may be apart."""

from __future__ import annotations

#: Of float32 numbers that another way of adding up gives: another CPU or BLAS, more threads, other blocks, another process.
#: Sums over 15,000 genes then differ by some 3e-6 of the largest value (SSE2 against AVX-512), and layers that follow
#: enlarge it; `atol` is for embeddings and logarithms near zero, which are of the order of 1. The same way gives the same bits.
OTHER_KERNELS = {"rtol": 1e-4, "atol": 1e-5}
