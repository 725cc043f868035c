"""Tests of sagefm, and how far two computations of the same numbers may be apart."""

from __future__ import annotations

#: Of float32 results that other code adds up: another CPU or BLAS, more threads, larger blocks, another process. Sums over
#: 15,000 genes in another order differ by some 3e-6 of the largest value (SSE2 against AVX-512), and layers that follow
#: enlarge it. Embeddings and imputed counts are of the order of 1. The same code on the same machine gives the same bits.
OTHER_KERNELS = {"rtol": 1e-4, "atol": 1e-5}
