"""Images without their high frequencies."""

from __future__ import annotations

from torch import Tensor, nn

from fastat.theory.catastrophic.cosine import dct_matrix


class LowPass(nn.Module):
    """Keeps the coefficients of the orthonormal discrete cosine transform with both frequencies below the bandwidth.

    An orthogonal projection, without parameters: it comes before a network while that is trained
    (``fastat.training.train_configured(..., front=LowPass(5))``), and is left away after.

    Args:
        bandwidth: W, at least 1; images of at most W pixels in height and width pass as they are.

    Raises:
        TypeError: the bandwidth is not an integer.
        ValueError: bandwidth < 1.
    """

    def __init__(self, bandwidth: int) -> None:
        super().__init__()
        if isinstance(bandwidth, bool) or not isinstance(bandwidth, int):
            raise TypeError(f"bandwidth must be an integer, got {bandwidth!r}")
        if bandwidth < 1:
            raise ValueError(f"bandwidth must be at least 1, got {bandwidth}")
        self.bandwidth = bandwidth

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return self._projector(x.shape[-2], x) @ x @ self._projector(x.shape[-1], x)

    def extra_repr(self) -> str:
        """What printing shows."""
        return f"bandwidth={self.bandwidth}"

    def _projector(self, n: int, like: Tensor) -> Tensor:
        """[n, n], symmetric: on the cosines of the lowest frequencies."""
        rows = dct_matrix(n)[: self.bandwidth]
        return (rows.T @ rows).to(like)
