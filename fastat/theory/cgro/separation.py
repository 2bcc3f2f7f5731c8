"""Which points are near each other, exactly, without a table of all coordinates of all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from fastat.support.keyed import keyed_permutation

BallNorm = Literal["linf", "l2"]

_PROBES = 32  # coordinates that rule most pairs out: of MNIST's and CIFAR-10's pairs under 1% are left to measure
_TABLE = 1 << 24  # entries of a table of distances at a time
_GATHERED = 1 << 22  # coordinates of gathered pairs at a time
_FIRST_ROWS = 32  # points whose distances to all others are measured, for a first bound


def close_pairs(x: Tensor, points: Tensor, radius: float, norm: BallNorm = "linf") -> tuple[Tensor, Tensor]:
    """The pairs (a row of x, a row of points) at a distance below the radius.

    The distance over a few coordinates bounds that over all from below, so most pairs are ruled out by these few; the
    others are measured. Memory is bounded whatever the number of rows.

    Args:
        x: [B, D].
        points: [N, D], on the device of x.
        radius: in the unit of x.
        norm: "linf" or "l2".

    Returns:
        rows of x and rows of points, int64 [pairs] each, sorted by the row of x.
    """
    rows, columns = [], []
    for row, column, _ in _measured(x, points, radius, norm):
        rows.append(row)
        columns.append(column)
    none = torch.zeros(0, dtype=torch.int64, device=x.device)
    return torch.cat([none, *rows]), torch.cat([none, *columns])


def least_separation(points: Tensor, labels: Tensor, norm: BallNorm = "linf") -> tuple[float, tuple[int, int]]:
    """The least distance between two points of different labels, and their rows; infinity and (-1, -1) if none differ.

    Args:
        points: [N, D].
        labels: int64 [N].
        norm: "linf" or "l2".
    """
    least, nearest = float("inf"), (-1, -1)
    everything = torch.arange(len(points), device=points.device)
    for first in range(min(_FIRST_ROWS, len(points))):
        others = everything[labels != labels[first]]
        for part in others.split(max(1, _GATHERED // points.shape[1])):
            distances = _length(points[part] - points[first], norm)
            if len(part) > 0 and float(distances.min()) < least:
                least, nearest = float(distances.min()), (first, int(part[distances.argmin()]))
    # each block against what follows it, within the least distance so far
    for block in everything.split(max(1, _TABLE // max(1, len(points)))):
        start = int(block[0])
        for row, column, distances in _measured(
            points[block], points[start:], least, norm, (labels[block], labels[start:])
        ):
            if len(distances) > 0 and float(distances.min()) < least:
                place = int(distances.argmin())
                least, nearest = float(distances[place]), (start + int(row[place]), start + int(column[place]))
    return least, (min(nearest), max(nearest))


@torch.no_grad()
def _measured(
    x: Tensor, points: Tensor, radius: float, norm: BallNorm, labels: tuple[Tensor, Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows, columns and distances of the pairs within the radius, a block at a time; of different labels if given."""
    probes = _probes(points)
    short_x, short_points = x[:, probes], points[:, probes]
    for block in torch.arange(len(x), device=x.device).split(max(1, _TABLE // max(1, len(points)))):
        near = _distances(short_x[block], short_points, norm) <= radius
        if labels is not None:
            near &= labels[0][block][:, None] != labels[1][None, :]
        row, column = near.nonzero(as_tuple=True)
        for part in torch.arange(len(row), device=x.device).split(max(1, _GATHERED // x.shape[1])):
            i, j = block[row[part]], column[part]
            distances = _length(x[i] - points[j], norm)
            keep = distances < radius
            yield i[keep], j[keep], distances[keep]


def _probes(points: Tensor) -> Tensor:
    """Some coordinates of large variance; not the largest, which in images are neighbours that say the same."""
    varied = points.var(0, correction=0).argsort(descending=True)[: max(_PROBES, points.shape[1] // 2)]
    return varied[keyed_permutation(len(varied), _PROBES)[:_PROBES].to(points.device)]


def _distances(a: Tensor, b: Tensor, norm: BallNorm) -> Tensor:
    # without matrix products, whose rounding could rule out a pair that is near
    p = float("inf") if norm == "linf" else 2.0
    return torch.cdist(a, b, p=p, compute_mode="donot_use_mm_for_euclid_dist")


def _length(difference: Tensor, norm: BallNorm) -> Tensor:
    return difference.abs().amax(1) if norm == "linf" else difference.norm(dim=1)
