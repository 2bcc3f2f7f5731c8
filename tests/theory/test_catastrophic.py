"""What the experiment on catastrophic overfitting is made of: patterns, injections, low pass, curvature."""

import math

import pytest
import torch
from torch import nn

from fastat import data
from fastat.theory.catastrophic import (
    LowPass,
    carriers,
    carriers_alone,
    curvature,
    inject,
    inject_projected,
    injected_split,
    remove,
    span_basis,
    view_accuracies,
    views,
)
from fastat.theory.catastrophic.cosine import cosine_signs, dct_matrix, zigzag


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def one_cosine(height: int, width: int, u: int, v: int) -> torch.Tensor:
    """The inverse transform of a single coefficient, from its formula."""
    rows = torch.tensor([math.cos(math.pi * (2 * i + 1) * u / (2 * height)) for i in range(height)])
    columns = torch.tensor([math.cos(math.pi * (2 * j + 1) * v / (2 * width)) for j in range(width)])
    return rows[:, None] * columns


class TestCosine:
    @pytest.mark.parametrize("n", [1, 2, 5, 8, 28])
    def test_matrix_is_orthonormal(self, n):
        matrix = dct_matrix(n)
        assert torch.allclose(matrix @ matrix.T, torch.eye(n, dtype=torch.float64), atol=1e-14)

    def test_signs_vanish_where_the_cosine_does(self):
        for n in (2, 3, 8, 9, 28, 32):
            matrix = dct_matrix(n)
            for k in range(n):
                signs = cosine_signs(n, k)
                assert signs.double().equal(torch.where(matrix[k].abs() < 1e-12, 0.0, matrix[k].sign()))
        assert cosine_signs(3, 1).tolist() == [1, 0, -1]
        assert cosine_signs(28, 4)[3] == 0

    def test_zigzag(self):
        assert zigzag(3, 3)[:6] == [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2)]
        assert sorted(zigzag(4, 6)) == [(row, column) for row in range(4) for column in range(6)]

    def test_needs_a_size(self):
        with pytest.raises(ValueError, match="n must be at least 1, got 0"):
            dct_matrix(0)


class TestCarriers:
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
    def test_ten_classes(self, shape):
        found = carriers(10, shape)
        assert found.shape == (10, *shape) and found.dtype == torch.float32
        for number, (u, v) in enumerate([(0, 1), (1, 0), (1, 1), (2, 1), (1, 2)]):
            expected = one_cosine(*shape[1:], u, v).sign().expand(shape)
            assert found[number].equal(expected)
            assert found[number + 5].equal(-expected)

    def test_other_numbers_take_the_zigzag_order(self):
        found = carriers(12, (2, 5, 7))
        order = [(0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (4, 0), (3, 1), (2, 2)]
        for pattern, (u, v) in zip(found, order, strict=True):
            exact = one_cosine(5, 7, u, v)
            assert pattern.equal(torch.where(exact.abs() < 1e-5, 0.0, exact.sign()).expand(2, 5, 7))
        assert len({tuple(pattern.flatten().tolist()) for pattern in carriers(200, (3, 64, 64))}) == 200

    def test_mirrored_the_first_pattern_is_the_sixth(self):
        found = carriers(10, (1, 8, 8))
        assert found[0].flip(-1).equal(found[5])

    @pytest.mark.parametrize("number", [1, 0, -3])
    def test_number_of_classes(self, number):
        with pytest.raises(ValueError, match=f"num_classes must be at least 2, got {number}"):
            carriers(number, (1, 8, 8))

    @pytest.mark.parametrize(("number", "shape"), [(64, (1, 8, 8)), (10, (1, 2, 9)), (4, (3, 2, 2))])
    def test_images_that_are_too_small(self, number, shape):
        with pytest.raises(ValueError, match=f"too few frequencies for num_classes = {number}"):
            carriers(number, shape)
        assert len(carriers(63, (1, 8, 8))) == 63

    def test_shape(self):
        with pytest.raises(ValueError, match=r"shape must be .*, got \(1, 0, 8\)"):
            carriers(3, (1, 0, 8))


class TestInjection:
    V = carriers(10, (3, 8, 8))

    def test_adds_the_pattern_of_the_label(self):
        x, y = images(4, 3, 8, 8), torch.tensor([7, 0, 7, 3])
        found = inject(x, y, self.V, 0.25)
        for i in range(4):
            assert found[i].equal(x[i] + 0.25 * self.V[y[i]])
        assert found.amin() < 0 and found.amax() > 1
        assert inject(found, y, self.V, -0.25).allclose(x, atol=1e-6)
        assert carriers_alone(y, self.V, 0.25).equal(inject(torch.zeros_like(x), y, self.V, 0.25))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_projector(self, channels):
        V = carriers(10, (channels, 8, 8))
        basis = span_basis(V)
        assert basis.shape == (5, channels * 64)  # a QR of the ten would have ten columns
        assert torch.allclose(basis @ basis.T, torch.eye(5, dtype=torch.float64), atol=1e-12)
        assert remove(V, V).abs().max() < 1e-5
        assert len(span_basis(carriers(12, (1, 8, 8)))) == 12

    def test_removes_the_span_and_nothing_else(self):
        x, y = images(6, 3, 8, 8), torch.arange(6)
        rest = remove(x, self.V)
        flat = self.V.flatten(1)
        assert (rest.flatten(1) @ flat.T).abs().max() < 1e-3
        assert remove(rest, self.V).allclose(rest, atol=1e-5)
        part = (x - rest).flatten(1)
        solution = torch.linalg.lstsq(flat[:5].T.double(), part.T.double()).solution
        assert (flat[:5].T.double() @ solution).allclose(part.T.double(), atol=1e-5)
        assert inject_projected(x, y, self.V, 0.1).allclose(rest + 0.1 * self.V[y], atol=1e-6)
        assert remove(inject(x, y, self.V, 0.7), self.V).allclose(rest, atol=1e-5)

    def test_patterns_of_other_images(self):
        with pytest.raises(ValueError, match=r"images must be \[B, 3, 8, 8\], got \(2, 1, 8, 8\)"):
            inject(images(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), self.V, 0.1)


class TestLowPass:
    def test_keeps_the_low_frequencies_only(self):
        x = images(2, 3, 8, 6).double()
        low = LowPass(3)(x)
        before, after = (dct_matrix(8) @ image @ dct_matrix(6).T for image in (x, low))
        assert after[..., :3, :3].allclose(before[..., :3, :3], atol=1e-12)
        after[..., :3, :3] = 0
        assert after.abs().max() < 1e-12
        assert LowPass(3)(low).allclose(low, atol=1e-12)

    def test_high_bandwidth_changes_nothing(self):
        x = images(2, 1, 8, 8)
        assert LowPass(8)(x).allclose(x, atol=1e-6)
        assert LowPass(100)(x).allclose(x, atol=1e-6)

    def test_in_front_of_a_network(self):
        module = LowPass(2)
        assert not list(module.parameters()) and not module.state_dict()
        x = images(1, 1, 8, 8).requires_grad_()
        module(x).square().sum().backward()
        assert x.grad is not None and x.grad.allclose(2 * module(x.detach()), atol=1e-5)  # self-adjoint
        assert module(images(1, 1, 8, 8).bfloat16()).dtype == torch.bfloat16

    def test_bandwidth(self):
        with pytest.raises(ValueError, match="bandwidth must be at least 1, got 0"):
            LowPass(0)
        for wrong in (2.0, True):
            with pytest.raises(TypeError, match=f"bandwidth must be an integer, got {wrong}"):
                LowPass(wrong)


class Quadratic(nn.Module):
    """Two logits, (0, a.x + |x|^2 / 2): the gradient of the loss is known."""

    def __init__(self, curved: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([[0.5, -1.0]]))
        self.curved = curved

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        score = x @ self.slope[0] + self.curved * x.square().sum(1) / 2
        return torch.stack([torch.zeros_like(score), score], 1)


class TestCurvature:
    @pytest.mark.parametrize("curved", [0.0, 2.0])
    def test_by_hand(self, curved):
        model = Quadratic(curved)
        x, y = images(5, 2, 1, 1), torch.tensor([0, 1, 0, 1, 1])

        def gradient(x: torch.Tensor) -> torch.Tensor:
            probability = torch.softmax(model(x), 1)[:, 1] - y
            return probability[:, None] * (model.slope[0] + curved * x.flatten(1))

        here = gradient(x)
        there = gradient(x + 0.3 * here.sign()[..., None, None])
        found = curvature(model, x, y, 0.3, batch_size=2)
        assert found.shape == (5,) and not found.requires_grad
        assert found.allclose((there - here).norm(dim=1), atol=1e-6)
        assert curvature(model, x, y, 0.0).abs().max() == 0

    def test_of_a_linear_loss_is_zero(self):
        class Margin(nn.Linear):  # cross-entropy of logits far apart is linear
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x.flatten(1)) + torch.tensor([0.0, 50.0])

        x = images(3, 1, 2, 2)
        assert curvature(Margin(4, 2), x, torch.zeros(3, dtype=torch.int64), 0.2).max() < 1e-6

    def test_leaves_the_model_as_found(self):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        curvature(model, images(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), 0.1)
        assert model.training and all(value.equal(before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_bad_input(self):
        x, y = images(2, 2, 1, 1), torch.zeros(2, dtype=torch.int64)
        for eps in (-0.1, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"eps must be a finite number of at least 0, got {eps}"):
                curvature(Quadratic(1.0), x, y, eps)
        with pytest.raises(ValueError, match=r"needs a label for each of 2 images, got \(1,\)"):
            curvature(Quadratic(1.0), x, y[:1], 0.1)


class TestViews:
    def test_split_is_injected_on_both_sides(self):
        split = data.load("digits")
        found = injected_split(split, 0.1)
        V = carriers(10, (1, 8, 8))
        for old, new in ((split.train, found.train), (split.test, found.test)):
            assert new.pixels().equal(old.pixels() + 0.1 * V[old.labels])
            assert new.labels.equal(old.labels) and new.ids.equal(old.ids)
        assert injected_split(split, 0.0).test.pixels().equal(split.test.pixels())
        projected = injected_split(split, 0.1, "projected").test.pixels()
        assert projected.allclose(inject_projected(split.test.pixels(), split.test.labels, V, 0.1))
        with pytest.raises(ValueError, match="injection must be one of plain, projected, got 'none'"):
            injected_split(split, 0.1, "none")

    def test_a_reader_of_the_pattern(self):
        """A network that goes by the patterns alone is right where they are there, and fooled where they are turned."""
        test = data.load("digits").test.load().subset(100, 0)
        V = carriers(10, (1, 8, 8))

        class Reader(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return -((x[:, None] - V).flatten(2).square().sum(2))

        strong = view_accuracies(Reader(), views(test, 5.0), test.labels)
        assert strong["injected"] == strong["alone"] == 1.0
        assert strong["reversed"] == 0.0
        assert strong["original"] < 0.5 and strong["removed"] < 0.5
        projected = views(test, 5.0, "projected")
        assert view_accuracies(Reader(), projected, test.labels)["injected"] == 1.0
        assert projected["removed"].allclose(views(test, 5.0)["removed"], atol=1e-5)
        assert remove(projected["reversed"], V).allclose(projected["removed"], atol=1e-5)
