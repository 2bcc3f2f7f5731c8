"""The random start: its numbers, its laws, and that they depend on nothing but the keys."""

import math

import pytest
import torch

from fastat.kernels import ops, reference

NORMS = ["linf", "l2", "l1"]
P = {"linf": math.inf, "l2": 2, "l1": 1}


def test_philox_matches_the_published_vectors():
    # Known answers of Philox4x32-10 (Salmon et al. 2011): key and counter all zero, and all ones.
    words = reference.philox(0, torch.tensor(0), 0, torch.tensor(0))
    assert [f"{w:08x}" for w in words.tolist()] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    words = reference.philox(-1, torch.tensor(-1), 2**32 - 1, torch.tensor(2**32 - 1))
    assert [f"{w:08x}" for w in words.tolist()] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 3, 5, 7), (5, 64), (2, 4099)])
@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_the_twin(norm, shape, dtype):
    x = torch.rand(shape).to(dtype)
    ids = torch.tensor([2**40 + 7, 0, 5, 3, 1])[: shape[0]]
    ours = ops.random_start(x, 0.3, norm, seed=-(2**62) + 17, sample_ids=ids, draw=4)
    twin = reference.random_start(x, 0.3, norm, seed=-(2**62) + 17, sample_ids=ids, draw=4)
    if norm == "linf":
        assert torch.equal(ours, twin)
    elif dtype in (torch.float32, torch.float64):  # the logarithms and angles are float32 on one side
        torch.testing.assert_close(ours, twin, rtol=0, atol=1e-6)
    else:
        torch.testing.assert_close(ours, twin, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_numbers_depend_on_the_sample_alone(norm):
    x = torch.rand(6, 3, 5, 4)
    ids = torch.tensor([11, 7, 300, 2, 9, 4])
    whole = ops.random_start(x, 0.2, norm, seed=5, sample_ids=ids)
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    assert torch.equal(ops.random_start(x[order], 0.2, norm, seed=5, sample_ids=ids[order]), whole[order])
    assert torch.equal(ops.random_start(x[2:4], 0.2, norm, seed=5, sample_ids=ids[2:4]), whole[2:4])
    last = ops.random_start(x.contiguous(memory_format=torch.channels_last), 0.2, norm, seed=5, sample_ids=ids)
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, whole)
    strided = torch.stack([x, x], dim=-1)[..., 0]
    assert torch.equal(ops.random_start(strided, 0.2, norm, seed=5, sample_ids=ids), whole)
    assert torch.equal(ops.random_start(x, 0.2, norm, seed=torch.tensor(5), sample_ids=ids.int()), whole)
    for other in ({"seed": 6}, {"seed": 5, "draw": 1}, {"seed": 5, "sample_ids": ids + 1}):
        assert not torch.equal(ops.random_start(x, 0.2, norm, **({"sample_ids": ids} | other)), whole)
    volume = torch.rand(2, 3, 2, 4, 5)
    assert torch.equal(
        ops.random_start(volume.contiguous(memory_format=torch.channels_last_3d), 0.2, norm, seed=5),
        ops.random_start(volume, 0.2, norm, seed=5),
    )


@pytest.mark.parametrize("norm", NORMS)
def test_uniform_in_the_ball(norm):
    # In a ball of dimension n, (||u|| / eps)^n is uniform on (0, 1), and each coordinate has a known variance.
    n, batch = 6, 40_000
    u = ops.random_start(torch.zeros(batch, n), 2.0, norm, seed=1, lower=None, upper=None).double()
    radius = (u.norm(P[norm], dim=1) / 2.0) ** n
    assert radius.max() <= 1 + 1e-5
    grid = torch.linspace(0, 1, 21, dtype=torch.float64)
    cdf = torch.searchsorted(radius.sort().values, grid).double() / batch
    assert (cdf - grid).abs().max() < 2.5 / math.sqrt(batch)  # Kolmogorov-Smirnov, p about 1e-5
    variance = {"linf": 1 / 3, "l2": 1 / (n + 2), "l1": 2 / ((n + 1) * (n + 2))}[norm] * 4.0
    assert torch.allclose(u.var(dim=0), torch.tensor(variance, dtype=torch.float64), rtol=0.05)
    assert u.mean(dim=0).abs().max() < 5 * math.sqrt(variance / batch)
    correlation = torch.corrcoef(u.T) - torch.eye(n)
    assert correlation.abs().max() < 5 / math.sqrt(batch)


@pytest.mark.parametrize("norm", NORMS)
def test_box_and_per_sample_radius(norm):
    x = torch.rand(4, 50)
    out = ops.random_start(x, torch.tensor([0.0, 0.1, 1.0, 5.0]), norm, seed=2)
    assert torch.equal(out[0], x[0])
    assert out.min() >= 0 and out.max() <= 1
    alone = ops.random_start(x[2:3], 1.0, norm, seed=2, sample_ids=torch.tensor([2]))
    assert torch.equal(out[2:3], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_stays_in_the_ball(norm, dtype):
    x = torch.rand(64, 300).to(dtype)
    out = ops.random_start(x, 8 / 255, norm, seed=3)
    assert ((out.double() - x.double()).norm(P[norm], dim=1) <= 8 / 255 * (1 + 1e-6)).all()
    assert out.min() >= 0 and out.max() <= 1


def test_seed_none_follows_torch():
    x = torch.rand(2, 8)
    torch.manual_seed(4)
    first = ops.random_start(x, 0.1, "linf")
    second = ops.random_start(x, 0.1, "linf")
    torch.manual_seed(4)
    assert torch.equal(ops.random_start(x, 0.1, "linf"), first) and not torch.equal(first, second)


def test_empty_and_errors():
    assert ops.random_start(torch.zeros(0, 3), 0.1, "l2", seed=1).shape == (0, 3)
    assert ops.random_start(torch.zeros(3, 0), 0.1, "l2", seed=1).shape == (3, 0)
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"sample_ids must have shape \[2\], got \[3\]"):
        ops.random_start(x, 0.1, "linf", seed=1, sample_ids=torch.arange(3))
    with pytest.raises(TypeError, match="sample_ids must be an integer tensor"):
        ops.random_start(x, 0.1, "linf", seed=1, sample_ids=torch.zeros(2))
    with pytest.raises(TypeError, match="seed must be an int"):
        ops.random_start(x, 0.1, "linf", seed=1.5)
    with pytest.raises(ValueError, match="seed must be one int64"):
        ops.random_start(x, 0.1, "linf", seed=torch.tensor(1.0))
    with pytest.raises(ValueError, match="draw must be in"):
        ops.random_start(x, 0.1, "linf", seed=1, draw=-1)


def test_opcheck_and_compile():
    x = torch.rand(3, 2, 4)
    for order in range(3):
        args = (x, 0.1, None, order, torch.tensor(3), torch.arange(3), 0, 0.0, 1.0, None, torch.ones(1, 2, 4))
        torch.library.opcheck(torch.ops.fastat.random_start.default, args)
    compiled = torch.compile(
        lambda x, seed: ops.random_start(x, 0.1, "linf", seed) + 1, fullgraph=True, backend="aot_eager"
    )
    seed = torch.tensor(3)
    assert torch.equal(compiled(x, seed), ops.random_start(x, 0.1, "linf", seed) + 1)
