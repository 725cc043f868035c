"""Data of the interactive map: places of spots, and what can be shown of them, in a few bytes each."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Picture

from sagefm._constants import DOMAIN_KEY, IMPUTED_KEY
from sagefm._report._figures import spots_of
from sagefm.pl._tissue import robust_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sagefm._report._sections import Section
    from sagefm.pl._image import Image

#: More spots than these are shown as a picture only.
MAX_SPOTS = 20_000
#: Pixels a side, and quality, of the tissue's image.
_SIDE, _QUALITY = 1000, 60
_LEVELS, _STEPS = 255, 65_535


def map_data(section: Section, colors: dict[str, str], genes: Sequence[str], imputed: Sequence[str]) -> dict[str, Any]:
    """Return what the map of a page shows, as JSON takes it: places and values as base64 of small numbers.

    `genes` are shown as measured, `imputed` as predicted.
    """
    spots = spots_of(section)
    low = spots.xy.min(axis=0) - spots.pitch
    span = float((spots.xy.max(axis=0) + spots.pitch - low).max())
    places = np.rint((spots.xy - low) / span * _STEPS).astype("<u2")
    layers = []
    if DOMAIN_KEY in section.table.obs and colors:
        codes = section.table.obs[DOMAIN_KEY].cat.codes.to_numpy()
        layers.append(
            {
                "name": "Domain",
                "kind": "category",
                "names": list(colors),
                "colors": list(colors.values()),
                "data": _encode(codes.astype(np.uint8)),
            }
        )
    if section.counts is not None:
        layers.append(_numbers("Counts per spot", section.totals, logged=True))
        layers.append(_numbers("Genes per spot", section.n_genes))
        share = section.mitochondrial
        if share is not None:
            layers.append(_numbers("Mitochondrial share, %", 100 * share))
        symbols = list(map(str, section.symbols))
        for gene in genes:
            column = section.counts[:, symbols.index(gene)].toarray().ravel()
            layers.append(_numbers(f"{gene}, counts", column, logged=True, group="Genes, as measured"))
        for gene in imputed:
            column = np.asarray(_column(section.table.layers[IMPUTED_KEY], symbols.index(gene)))
            layers.append(_numbers(f"{gene}, imputed", column, group="Genes, as imputed"))
    return {
        "xy": _encode(places.ravel()),
        "radius": spots.pitch / span / 2,
        "height": float(np.ptp(spots.xy[:, 1]) + 2 * spots.pitch) / span,
        "width": float(np.ptp(spots.xy[:, 0]) + 2 * spots.pitch) / span,
        "spots": list(map(str, section.table.obs_names)),
        "layers": layers,
        "image": None if section.image is None else _image(section.image, low, span),
    }


def to_script(data: dict[str, Any]) -> str:
    """Return data as JSON that may stand in a page."""
    return json.dumps(data, separators=(",", ":")).replace("</", "<\\/")


def _column(matrix: Any, i: int) -> NDArray[np.float64]:
    column = matrix[:, [i]]
    return np.asarray(column.toarray() if hasattr(column, "toarray") else column, dtype=np.float64).ravel()


def _numbers(name: str, values: NDArray[Any], *, logged: bool = False, group: str = "Spots") -> dict[str, Any]:
    """Return numbers as bytes between their 1 % and 99 % quantiles; counts by their logarithm, which hover shows as counts."""
    scaled = np.log1p(values) if logged else np.asarray(values, dtype=np.float64)
    low, high = robust_limits(scaled)
    # Beyond the quantiles the color is that of the end: what hover says is kept to the full range.
    top = max(float(np.nanmax(scaled)), high)
    steps = np.clip(np.nan_to_num(scaled) / (top or 1), 0, 1) * _STEPS
    return {
        "name": name, "kind": "number", "group": group, "log": logged, "top": top, "low": low, "high": high,
        "data": _encode(np.rint(steps).astype("<u2")),
    }  # fmt: skip


def _encode(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _image(image: Image, low: NDArray[np.float64], span: float) -> dict[str, Any]:
    """Return the tissue's image around the spots, as a WebP and the map of its pixels to the unit square of the map."""
    to_pixels = np.linalg.inv(image.to_coordinates)
    height, width = image.pixels.shape[:2]
    corners = np.array(
        [to_pixels @ [*(low + np.array(corner) * span), 1] for corner in ((0, 0), (1, 0), (0, 1), (1, 1))]
    )[:, :2]
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)), [left + 1, top + 1], [width, height]).astype(int)
    part = Picture.fromarray(np.ascontiguousarray(image.pixels[top:bottom, left:right]))
    shrink = min(1.0, _SIDE / max(part.size))
    part = part.resize((max(round(part.width * shrink), 1), max(round(part.height * shrink), 1)))
    file = BytesIO()
    part.save(file, "WEBP", quality=_QUALITY)
    scale = np.array([(right - left) / part.width, (bottom - top) / part.height])
    crop = np.array([[scale[0], 0, left], [0, scale[1], top], [0, 0, 1]])
    to_unit = np.array([[1 / span, 0, -low[0] / span], [0, 1 / span, -low[1] / span], [0, 0, 1]])
    matrix = to_unit @ image.to_coordinates @ crop
    return {
        "src": f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}",
        "matrix": matrix[:2].T.ravel().round(9).tolist(),
    }
