r"""Couplings of a section: the residual of a target at a spot against the residual of a source around it.

Notation, for a section of n spots with counts x, depths d and gene shares p; O averages over a spot's neighbors, without
the spot itself:

    e_ig = asinh((x_ig - mu_ig) / sqrt(mu_ig + phi_g mu_ig^2)),    mu_ig = d_i p_g                    (residual)
    E    = e - B B^T e - sum_k u_k u_k^T e / cos^2 theta_k,        M = O E                            (adjusted, around)
    c_st = mean_i M_is E_it,    c0_st = mean_i E_is E_it                                              (covariances)
    shared_st = min(max(sign(c_st) c0_st - sd(c0_st) / 2, 0), sqrt(c_ss c_tt))
    z_st = sign(c_st) max(|c_st| - shared_st, 0) / sd(c_st)                                           (coupling)

1. Pearson residuals of counts, compressed so that a few spots with very many counts do not make a coupling. Adjusted for
   depth (B) and for the principal components u of *other* genes. These are estimated from counts, so that a regression
   on them leaves part of what they stand for; division by the squared cosine of the angle theta between estimated and
   true component, known from random matrix theory, takes all of it.
2. Whatever two genes have in common (cell type, domain, any field) makes them covary between neighbors no more than it
   makes them covary at one spot, nor more than each covaries with itself (Cauchy and Schwarz). That much is taken off,
   and of co-expression, white or smooth, nothing is left but noise. Half a standard deviation of c0 is not counted:
   noise of a covariance at one spot is several times that of one with a mean around.
3. sd(c_st) is that of two independent autocorrelated fields (Clifford, Richardson and Hemon 1989), summed over classes k of
   distance. At distance 0 it is mean_i M_is^2 E_it^2 (White 1980): genes of one domain vary most at the same spots. It grows
   by 1 + c0_st^2 for genes that covary at one spot.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree

from sagefm.data._graph import averaging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

N_FOLDS: Final = 4
#: Genes of a fold's components: those with the most counts carry the structure of a section.
_COMPONENT_GENES: Final = 4000
#: A component keeps at least this share of its variance: below, it could not be told from noise.
_MIN_COSINE: Final = 0.2
#: Standard deviations by which a covariance at one spot has to be above zero before it counts as shared.
_NOISE_OF_SHARED: Final = 0.5
#: Reach and width of the classes of distance, in pitches (the median distance of nearest spots).
_REACH, _CLASS_WIDTH = 6.4, 0.5
#: Smallest variance of a correlation, as a share of that of independent spots.
_MIN_VARIANCE: Final = 0.5
_BLOCK_GENES: Final = 512


@dataclass(frozen=True)
class Components:
    """Components of the genes outside a fold, orthogonal to depth.

    Attributes
    ----------
    basis
        Constant and log depth, orthonormal (n_spots, 2).
    scores
        ``u``, orthonormal columns (n_spots, n_components).
    cosines
        Estimated squared cosine of the angle between each and the component that it estimates (n_components,).
    """

    basis: NDArray[np.float32]
    scores: NDArray[np.float32]
    cosines: NDArray[np.float32]

    def adjust(self, residuals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return residuals without depth and components (n_spots, n_genes)."""
        residuals = residuals - self.basis @ (self.basis.T @ residuals)
        adjusted: NDArray[np.float32] = residuals - self.scores @ ((self.scores.T @ residuals) / self.cosines[:, None])
        return adjusted

    def lost(self, operator: sparse.csr_matrix) -> float:
        """Return by how much the adjustment lowers the covariance of white noise with its mean around."""
        directions = np.hstack([self.basis, self.scores])
        return float((directions * (operator @ directions)).sum()) / len(directions)


@dataclass(frozen=True)
class GeneFields:
    """Adjusted residuals of genes in one section.

    Attributes
    ----------
    center
        ``E``, standardized (n_spots, n_genes).
    around
        ``M``, standardized (n_spots, n_genes).
    spread
        Standard deviation of ``M`` where ``E`` has 1 (n_genes,).
    own
        ``c_gg``, covariance of a gene with itself around, at least 0 (n_genes,).
    rho_center, rho_around
        Autocorrelation of both in each class of distance, times sqrt(pairs of spots) / n_spots (n_classes, n_genes).
    unit
        Change of the log rate that a correlation of 1 stands for (n_genes,).
    """

    center: Tensor
    around: Tensor
    spread: Tensor
    own: Tensor
    rho_center: Tensor
    rho_around: Tensor
    unit: Tensor

    def __getitem__(self, genes: slice | Tensor) -> Self:
        """Return some of the genes."""
        return type(self)(**{name: values[..., genes] for name, values in vars(self).items()})

    def at(self, spots: Tensor) -> Self:
        """Return the fields at some of the spots, or as they lie on turned tissue; standardized again."""
        growth = (len(self.center) / len(spots)) ** 0.5
        return replace(
            self,
            center=_standardized(self.center[spots])[0],
            around=_standardized(self.around[spots])[0],
            rho_center=self.rho_center * growth,
            rho_around=self.rho_around * growth,
        )


@dataclass(frozen=True)
class PairScores:
    """Sources x targets: correlation of target and source around, what they share of it, that at one spot, its sd."""

    r: Tensor
    shared: Tensor
    same_spot: Tensor
    sd: Tensor

    @property
    def z(self) -> Tensor:
        """Coupling in standard deviations."""
        # Zero has no sign.
        return torch.sign(self.r) * torch.clamp(self.r.abs() - self.shared, min=0) / self.sd + 0.0


class SectionFields:
    """The fields of a section's genes, computed when they are asked for.

    Parameters
    ----------
    counts
        Counts of all genes (n_spots, n_genes), CSC.
    neighbors, coordinates
        Pattern of neighbors (n_spots, n_spots), and coordinates (n_spots, 2).
    folds
        Fold of each gene (n_genes,).
    n_components
        Largest number of components; those that do not stand out from noise are left out.
    expected
        Expected counts of the genes (n_spots, n_genes). Default: depth times the gene's share.
    """

    def __init__(
        self,
        counts: sparse.csc_matrix,
        neighbors: sparse.csr_matrix,
        coordinates: NDArray[np.float64],
        folds: NDArray[np.int64],
        *,
        n_components: int = 20,
        expected: NDArray[np.float32] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.counts, self.folds, self.expected, self.device = counts, folds, expected, device
        self.coordinates = coordinates
        self.operator = averaging(neighbors, with_center=False)
        self.depth = np.maximum(np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(), 1.0)
        self.components = self._find_components(n_components)
        self.lost = [components.lost(self.operator) for components in self.components]
        self.classes = _distance_classes(coordinates)
        n_regressors = 2 + float(np.mean([len(components.cosines) for components in self.components]))
        #: Variance of a correlation of two independent white fields.
        self.white_variance = 1 / max(self.n_spots - n_regressors, 1)

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return int(self.counts.shape[0])

    def of(self, genes: Sequence[NDArray[np.int64]]) -> GeneFields:
        """Return the fields of genes, each a list of columns: one, or the subunits of a complex."""
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("center", "around"), (self.n_spots, len(genes)))
        shapes |= dict.fromkeys(("rho_center", "rho_around"), (len(self.classes), len(genes)))
        shapes |= dict.fromkeys(("spread", "own", "unit"), (len(genes),))
        # Filled block by block: at no time are there two copies.
        fields = {name: torch.empty(shape) for name, shape in shapes.items()}

        def fill(start: int) -> None:
            columns = slice(start, start + _BLOCK_GENES)
            for name, values in self._block(genes[columns]).items():
                fields[name][..., columns] = values

        # The products of sparse and dense blocks run on one thread each, and leave Python free.
        with ThreadPoolExecutor(max(torch.get_num_threads(), 1)) as pool:
            list(pool.map(fill, range(0, len(genes), _BLOCK_GENES)))
        return GeneFields(**{name: values.to(self.device) for name, values in fields.items()})

    def compare(self, sources: GeneFields, targets: GeneFields, *, same_spot: bool = False) -> PairScores:
        """Return the scores of all pairs of sources and targets at the same spots.

        With `same_spot` the source is read at the spot itself: co-expression, of which nothing is taken off.
        """
        n = len(sources.center)
        fields, rho = (sources.center, sources.rho_center) if same_spot else (sources.around, sources.rho_around)
        center, r = sources.center.T @ targets.center / n, fields.T @ targets.center / n
        at_one_spot = fields.square().T @ targets.center.square() / n
        # N_k rho_s(k) rho_t(k) / n^2, summed over k
        variance = at_one_spot * self.white_variance * (self.n_spots / n) + rho.T @ targets.rho_center
        variance = torch.clamp(variance, min=_MIN_VARIANCE / n)
        if same_spot:
            return PairScores(r, torch.zeros_like(r), center, variance.sqrt())
        own = torch.outer(sources.own, targets.own).sqrt()
        coexpression = 1 + center.square()
        co_varying = torch.sign(r) * center - _NOISE_OF_SHARED * (coexpression / n).sqrt()
        shared = torch.minimum(torch.clamp(co_varying, min=0), own) / sources.spread[:, None]
        return PairScores(r, shared, center, (variance * coexpression).sqrt())

    def _find_components(self, n_components: int) -> list[Components]:
        """Return the components of the genes outside each fold that stand out from noise."""
        basis = np.linalg.qr(np.column_stack([np.ones(self.n_spots), np.log(self.depth)]))[0].astype(np.float32)
        totals = np.asarray(self.counts.sum(axis=0)).ravel()
        genes = np.sort(np.argsort(-totals, kind="stable")[:_COMPONENT_GENES])
        genes = genes[totals[genes] > 0]
        residuals = np.empty((self.n_spots, len(genes)), dtype=np.float32)
        for start in range(0, len(genes), _BLOCK_GENES):
            columns = genes[start : start + _BLOCK_GENES]
            residuals[:, start : start + _BLOCK_GENES] = self._residuals([np.array([column]) for column in columns])[0]
        residuals -= basis @ (basis.T @ residuals)
        residuals /= np.maximum(residuals.std(axis=0), np.float32(1e-6))
        return [
            Components(basis, *_leading_components(residuals[:, self.folds[genes] != fold], n_components))
            for fold in range(N_FOLDS)
        ]

    def _residuals(self, genes: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return residuals (n_spots, n_genes), and their mean change with the log rate (n_genes,)."""
        counts = _least_subunit(self.counts, genes)
        if self.expected is None:
            mean = np.outer(self.depth, counts.sum(axis=0, dtype=np.float64) / self.depth.sum()).astype(np.float32)
        else:
            mean = np.stack([self.expected[:, columns].min(axis=1) for columns in genes], axis=1)
        difference = counts - mean
        squares = np.maximum((mean**2).sum(axis=0), np.finfo(np.float32).tiny)
        dispersion = np.maximum((difference**2 - mean).sum(axis=0) / squares, 0)
        sd = np.sqrt(np.maximum(mean + dispersion * mean**2, np.finfo(np.float32).tiny))
        pearson = difference / sd
        return np.arcsinh(pearson), (mean / sd / np.sqrt(1 + pearson**2)).mean(axis=0)

    def _block(self, genes: Sequence[NDArray[np.int64]]) -> dict[str, Tensor]:
        residuals, strength = self._residuals(genes)
        fold = self.folds[[columns[0] for columns in genes]]
        lost = np.array(self.lost, dtype=np.float32)[fold]
        for i in np.unique(fold):
            residuals[:, fold == i] = self.components[i].adjust(residuals[:, fold == i])
        center, sd = _standardized(torch.from_numpy(residuals))
        mean_around = torch.from_numpy(self.operator @ center.numpy())
        own = (center * mean_around).mean(dim=0) + torch.from_numpy(lost)
        around, spread = _standardized(mean_around)
        return {
            "center": center,
            "around": around,
            "spread": spread,
            "own": torch.clamp(own, min=0),
            "rho_center": self._autocorrelation(center.numpy()),
            "rho_around": self._autocorrelation(around.numpy()),
            "unit": sd / torch.clamp(torch.from_numpy(strength), min=1e-12),
        }

    def _autocorrelation(self, fields: NDArray[np.float32]) -> Tensor:
        """Return the autocorrelation in each class of distance, times sqrt(pairs) / n_spots (n_classes, n_genes)."""
        # Each pair of spots stands once in a class, and counts in both orders: 2 sum / (2 nnz) * sqrt(2 nnz) / n.
        rows = [np.einsum("ng,ng->g", fields, pairs @ fields) * np.sqrt(2 / pairs.nnz) for pairs in self.classes]
        return torch.from_numpy(np.stack(rows).astype(np.float32) / len(fields))


def _least_subunit(counts: sparse.csc_matrix, genes: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Return counts of genes, dense (n_spots, n_genes); those of a complex are its least abundant subunit's."""
    values = counts[:, [columns[0] for columns in genes]].toarray().astype(np.float32)
    for i, columns in enumerate(genes):
        if len(columns) > 1:
            values[:, i] = counts[:, columns].toarray().min(axis=1)
    return values


def _leading_components(
    residuals: NDArray[np.float32], n_components: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the left singular vectors that stand out from noise (n_spots, k), and their squared cosines (k,).

    Columns have unit variance. The largest singular value of noise, and the angle between the estimated and the true
    vector beyond it, are those of large random matrices (Benaych-Georges and Nadakuditi 2012).
    """
    # scikit-learn takes a second to import, and embedding does not need it.
    from sklearn.utils.extmath import randomized_svd

    n_spots, n_genes = residuals.shape
    largest, ratio = max(n_spots, n_genes), min(n_spots, n_genes) / max(n_spots, n_genes)
    n_components = min(n_components, min(n_spots, n_genes) - 1)
    if n_components < 1:
        return np.empty((n_spots, 0), np.float32), np.empty(0, np.float32)
    vectors, values, _ = randomized_svd(residuals, n_components, n_iter=4, random_state=0)
    squared = values.astype(np.float64) ** 2 / largest
    keep = squared > (1 + np.sqrt(ratio)) ** 2
    squared = squared[keep] - 1 - ratio
    signal = (squared + np.sqrt(np.maximum(squared**2 - 4 * ratio, 0))) / 2
    other = ratio if n_spots < n_genes else 1.0
    cosines = np.clip((signal**2 - ratio) / (signal**2 + other * signal), _MIN_COSINE, 1)
    return vectors[:, keep].astype(np.float32), cosines.astype(np.float32)


def _distance_classes(coordinates: NDArray[np.float64]) -> list[sparse.csr_matrix]:
    """Return, for each class of distance, its pairs of spots as ones above the diagonal, CSR (n_spots, n_spots)."""
    tree = cKDTree(coordinates)
    nearest = tree.query(coordinates, 2)[0][:, 1]
    pitch = float(np.median(nearest[nearest > 0])) if (nearest > 0).any() else 1.0
    pairs = tree.query_pairs(_REACH * pitch, output_type="ndarray")
    distances = np.linalg.norm(coordinates[pairs[:, 0]] - coordinates[pairs[:, 1]], axis=1)
    of_pair = np.floor(distances / (_CLASS_WIDTH * pitch) + 0.5).astype(int)
    shape = (len(coordinates), len(coordinates))
    classes = []
    for i in np.unique(of_pair):
        rows, columns = pairs[of_pair == i].T
        classes.append(sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape))
    return classes


def _standardized(fields: Tensor) -> tuple[Tensor, Tensor]:
    """Return fields with mean 0 and standard deviation 1 over spots, and their standard deviations before."""
    centered = fields - fields.mean(dim=0)
    sd = centered.square().mean(dim=0).sqrt()
    return centered / torch.clamp(sd, min=1e-12), sd
