"""pgd and fgsm: equal to the textbook loop, inside the threat model, and leaving the model as found."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastat
from fastat import attack_loss, fgsm, pgd
from fastat.kernels import ops

P = {"linf": math.inf, "l2": 2, "l1": 1}
EPS = {"linf": 4 / 255, "l2": 0.3, "l1": 3.0}


def network(batch_norm=False, classes=10):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8) if batch_norm else nn.Identity(), nn.ReLU()]
    layers += [nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, classes)]
    return nn.Sequential(*layers).eval()


@pytest.fixture
def model():
    return network()


@pytest.fixture
def batch(model):
    x = torch.rand(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(1)


def textbook(model, x, y, eps, step_size, steps, start, reduction="sum"):
    x_adv = start.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y, reduction=reduction)
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() + step_size * grad.sign()
        x_adv = (x + (x_adv - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    "loss",
    [
        {"loss": "ce", "training": True},
        {"loss": lambda z, y: F.cross_entropy(z, y, reduction="none")},
        {"loss": lambda z, y: F.cross_entropy(z, y)},
    ],
    ids=["compiled", "each", "mean"],
)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_linf_pgd_has_the_bits_of_the_textbook_loop(batch_norm, loss, reduction):
    model = network(batch_norm)
    x = torch.rand(16, 3, 12, 12)  # 16 samples: the mean divides by a power of two
    y = torch.randint(10, (16,))
    start = fastat.random_start(x, 8 / 255, "linf", seed=3)
    ours = pgd(model, x, y, 8 / 255, 2 / 255, 10, start=start, **loss)
    assert torch.equal(ours, textbook(model, x, y, 8 / 255, 2 / 255, 10, start, reduction))


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "kl", lambda z, y: F.cross_entropy(z, y, reduction="none")])
@pytest.mark.parametrize("norm", P)
def test_attacks_stay_inside_and_succeed(model, batch, norm, loss):
    x, y = batch
    x_adv = pgd(model, x, y, EPS[norm], norm=norm, loss=loss, seed=1)
    assert ((x_adv - x).double().flatten(1).norm(P[norm], dim=1) <= EPS[norm] * (1 + 1e-5)).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (model(x_adv).argmax(1) != y).float().mean() > 0.1
    if loss != "kl":  # which moves away from the prediction, not from the label
        assert attack_loss(model(x_adv).detach(), y)[0].mean() > attack_loss(model(x).detach(), y)[0].mean()


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_a_sure_model_is_attacked_at_least_as_well_as_by_the_textbook_loop(batch, scale):
    # Where p_y - 1 rounds to few digits or to zero, ours is the better gradient: the bits differ, the success does not
    # fall. Given the same loss gradient, a function's, the bits are the textbook's here too.
    model = network()
    with torch.no_grad():
        model[6].weight *= scale
        model[6].bias *= scale
    x, _ = batch
    y = model(x).argmax(1)
    expected = textbook(model, x, y, 4 / 255, 1 / 255, 10, x)
    same = pgd(
        model, x, y, 4 / 255, 1 / 255, 10, random_start=False, loss=lambda z, y: F.cross_entropy(z, y, reduction="none")
    )
    assert torch.equal(same, expected)
    ours = pgd(model, x, y, 4 / 255, 1 / 255, 10, random_start=False)
    assert (model(ours).argmax(1) != y).sum() >= (model(expected).argmax(1) != y).sum()


def test_a_model_that_works_in_place_does_not_change_the_batch():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x, y = torch.rand(4, 12), torch.tensor([0, 1, 2, 0])
    before = x.clone()
    pgd(lambda z: model(z if z.requires_grad else z.mul_(0.5)), x, y, 0.1, loss="kl", restarts=2, seed=1)
    assert torch.equal(x, before)


def test_the_start_is_where_the_attack_starts(model, batch):
    x, y = batch
    assert torch.equal(pgd(model, x, y, 0.1, steps=0, random_start=False), x)
    assert torch.equal(pgd(model, x, y, 0.1, steps=0, seed=5), ops.random_start(x, 0.1, "linf", seed=5))
    far = torch.full_like(x, 2.0)
    assert torch.equal(pgd(model, x, y, 0.1, steps=0, start=far), (x + 0.1).clamp(0, 1))


def test_the_seed_and_ids_decide_whatever_the_batch(model, batch):
    x, y = batch
    ids = torch.arange(100, 124)
    whole = pgd(model, x, y, 0.1, steps=0, seed=2, sample_ids=ids)
    assert torch.equal(pgd(model, x[5:9], y[5:9], 0.1, steps=0, seed=2, sample_ids=ids[5:9]), whole[5:9])
    assert torch.equal(pgd(model, x, y, EPS["linf"], seed=2), pgd(model, x, y, EPS["linf"], seed=2))


def test_keep_best_returns_the_highest_loss(model, batch):
    x, y = batch
    size = 1.5 * EPS["linf"]  # too long a step: the loss goes up and down
    iterates = [pgd(model, x, y, EPS["linf"], size, steps=k, seed=1) for k in range(7)]
    best = torch.stack([attack_loss(model(i).detach(), y)[0] for i in iterates]).amax(0)
    kept = pgd(model, x, y, EPS["linf"], size, steps=6, seed=1, keep="best")
    torch.testing.assert_close(attack_loss(model(kept).detach(), y)[0], best)


@pytest.mark.parametrize("norm", P)
@pytest.mark.parametrize("keep", ["last", "best"])
def test_early_stop_is_the_full_run_scored_over_its_iterates(model, batch, norm, keep):
    """In float64: a batch that shrinks is rounded differently, which can flip a sign."""
    model.double()
    x, y = batch[0].double(), batch[1]
    eps = EPS[norm] / 2
    iterates = torch.stack([pgd(model, x, y, eps, eps / 4, k, norm, seed=1) for k in range(9)])
    wrong = torch.stack([model(i).argmax(1) != y for i in iterates])
    stopped = pgd(model, x, y, eps, eps / 4, 8, norm, seed=1, early_stop=True, keep=keep)
    broken = wrong.any(0)
    assert 0 < broken.sum() < len(x)
    assert torch.equal(model(stopped).argmax(1) != y, broken)
    first = wrong.to(torch.int8).argmax(0)
    for i in broken.nonzero()[:, 0].tolist():
        torch.testing.assert_close(stopped[i], iterates[first[i], i], rtol=0, atol=1e-10)


def test_early_stop_makes_later_steps_cheaper(model, batch):
    x, y = batch
    sizes = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    pgd(model, x, y, EPS["linf"], seed=1, early_stop=True)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]


@pytest.mark.parametrize("early_stop", [False, True])
def test_restarts_prefer_a_misclassified_result(model, batch, early_stop):
    x, y = batch
    eps = EPS["linf"] / 3
    runs = [pgd(model, x, y, eps, steps=3, seed=1)]
    x_adv = pgd(model, x, y, eps, steps=3, seed=1, restarts=5, early_stop=early_stop)
    wrong = model(x_adv).argmax(1) != y
    assert (wrong | (model(runs[0]).argmax(1) == y)).all()
    loss, before = (attack_loss(model(a).detach(), y)[0] for a in (x_adv, runs[0]))
    assert (loss >= before - 1e-5)[~wrong].all()
    with pytest.raises(ValueError, match="restarts=2 needs random_start"):
        pgd(model, x, y, eps, restarts=2, random_start=False)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "dlr_targeted"])
def test_targets_are_reached(model, batch, loss):
    x, y = batch
    targets = (y + 1) % 10
    x_adv = pgd(model, x, y, 16 / 255, loss=loss, targets=targets, seed=1)
    before = attack_loss(model(x).detach(), targets)[0].mean()
    assert attack_loss(model(x_adv).detach(), targets)[0].mean() < before
    stopped = pgd(model, x, y, 32 / 255, steps=20, loss=loss, targets=targets, seed=1, early_stop=True)
    assert (model(stopped).argmax(1) == targets).float().mean() > 0.5


def test_fgsm_and_its_variants(model, batch):
    x, y = batch
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    assert torch.equal(fgsm(model, x, y, 0.05), (x + 0.05 * grad.sign()).clamp(0, 1))
    eps = 0.05
    rs = fgsm(model, x, y, eps, 1.25 * eps, noise=1.0, seed=3)
    start = ops.random_start(x, eps, "linf", seed=3)
    leaf = start.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    assert torch.equal(rs, (x + (start + 1.25 * eps * grad.sign() - x).clamp(-eps, eps)).clamp(0, 1))
    start = ops.random_start(x, 2 * eps, "linf", seed=3)
    leaf = start.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    n_fgsm = fgsm(model, x, y, eps, noise=2.0, clip=False, seed=3)
    torch.testing.assert_close(n_fgsm, (start + eps * grad.sign()).clamp(0, 1), rtol=0, atol=1e-7)
    assert (n_fgsm - x).abs().max() > 2 * eps
    with pytest.raises(ValueError, match="noise must be a finite number >= 0, got -1"):
        fgsm(model, x, y, eps, noise=-1)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_without_grad_mode(model, batch, context):
    x, y = batch
    expected = pgd(model, x, y, 0.02, seed=1)
    with context():
        x2, y2 = x.clone(), y.clone()
        x_adv = pgd(model, x2, y2, 0.02, seed=1)
        assert torch.equal(fgsm(model, x2, y2, 0.02), fgsm(model, x, y, 0.02))
    assert torch.equal(x_adv, expected)


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(training, fail):
    model = network(batch_norm=True).train(training)
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    x, y = torch.rand(4, 3, 12, 12), torch.arange(4)
    if fail:
        with pytest.raises(RuntimeError, match="stop here"):
            pgd(model, x, y, training=True, loss=lambda z, y: (_ for _ in ()).throw(RuntimeError("stop here")))
    else:
        pgd(model, x, y, steps=2, training=True)
    assert model.training is training
    assert [p.requires_grad for p in model.parameters()] == flags
    assert model[3].weight.grad is not None and model[3].weight.grad.eq(1).all() and model[6].weight.grad is None
    if not training:
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_no_parameter_gradient_is_computed(model, batch):
    x, y = batch
    seen = []
    model[0].register_full_backward_hook(lambda module, grad_in, grad_out: seen.append(module.weight.requires_grad))
    pgd(model, x, y, steps=1)
    assert seen == [False]


def test_compiled_model_gives_the_same(model, batch):
    x, y = batch[0].double(), batch[1]
    compiled = torch.compile(model.double(), backend="aot_eager")
    torch.testing.assert_close(pgd(compiled, x, y, 0.02, seed=1), pgd(model, x, y, 0.02, seed=1), rtol=0, atol=1e-10)


def test_channels_last_autocast_half_and_double(model, batch):
    x, y = batch
    expected = pgd(model, x, y, 0.02, seed=1)
    last = pgd(model, x.contiguous(memory_format=torch.channels_last), y, 0.02, seed=1)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert (last - expected).abs().mean() < 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_adv = pgd(model, x, y, 0.02, seed=1)
    assert x_adv.dtype == torch.float32 and (x_adv - x).abs().max() <= 0.02 * (1 + 1e-5)
    half = x.bfloat16()
    x_adv = pgd(model.bfloat16(), half, y, 0.02, seed=1)
    assert x_adv.dtype == torch.bfloat16 and (x_adv.double() - half.double()).abs().max() <= 0.02 * (1 + 1e-6)
    double = pgd(network().double(), x.double(), y, 0.02, seed=1)
    assert double.dtype == torch.float64 and (double - expected).abs().mean() < 1e-4


def test_per_sample_radius(model, batch):
    x, y = batch
    eps = torch.linspace(0, 0.05, len(x))
    x_adv = pgd(model, x, y, eps, seed=1)
    assert ((x_adv - x).abs().flatten(1).amax(1) <= eps * (1 + 1e-5) + 1e-7).all()
    assert torch.equal(x_adv[0], x[0])
    stopped = pgd(model, x, y, eps, seed=1, early_stop=True, restarts=2)
    assert ((stopped - x).abs().flatten(1).amax(1) <= eps * (1 + 1e-5) + 1e-7).all()


def test_normalized_data(model, batch):
    x, y = batch
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    m, s = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    undo = fastat.Normalized(nn.Identity(), (-m / s).flatten().tolist(), (1 / s).flatten().tolist())
    expects_normalized = nn.Sequential(undo, model)
    normalized = (x - m) / s
    torch.testing.assert_close(expects_normalized(normalized), model(x), rtol=1e-4, atol=1e-5)
    x_adv = pgd(expects_normalized, normalized, y, EPS["linf"], seed=1, normalization=(mean, std))
    pixels = x_adv * s + m
    assert ((pixels - x).abs() <= EPS["linf"] * (1 + 1e-4)).all() and pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    assert (expects_normalized(x_adv).argmax(1) != y).float().mean() > 0.1
    wrapped = pgd(fastat.Normalized(expects_normalized, mean, std), x, y, EPS["linf"], seed=1)
    assert (wrapped - pixels).abs().mean() < 1e-4


def test_bounds_have_a_tolerance_and_none(model, batch):
    x, y = batch
    slightly = x.clone()
    slightly[0, 0, 0, 0] = -3e-8
    assert pgd(model, slightly, y, 0.0, steps=1).min() >= 0
    x_adv = pgd(model, 3 * x - 1, y, 0.1, bounds=None)
    assert x_adv.min() < -1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, 12, 12, dtype=torch.uint8)}, TypeError, "divide 8-bit images by 255"),
        ({"x": torch.rand(2, 3, 12, 12) * 255}, ValueError, "8-bit images must be divided by 255"),
        ({"x": torch.randn(2, 3, 12, 12)}, ValueError, r"looks normalized.*fastat.Normalized.*normalization=\(mean"),
        ({"x": torch.full((2, 3, 12, 12), math.nan)}, ValueError, "x holds NaN"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, ValueError, r"y must have shape \[2\], got \[3\]"),
        ({"y": torch.zeros(2)}, TypeError, "y must be an integer tensor, got torch.float32"),
        ({"y": torch.tensor([0, 10])}, ValueError, r"labels must be in \[0, 10\), got 10"),
        ({"y": torch.tensor([0, -1])}, ValueError, "y must be >= 0, got -1"),
        ({"eps": -1 / 255}, ValueError, "eps must be >= 0"),
        ({"step_size": -1.0}, ValueError, "step_size must be >= 0, got -1.0"),
        ({"steps": -1}, ValueError, "steps must be an integer >= 0, got -1"),
        ({"restarts": 0}, ValueError, "restarts must be an integer >= 1, got 0"),
        ({"norm": "l0"}, ValueError, "norm must be one of linf, l2, l1, got 'l0'"),
        ({"loss": "hinge"}, ValueError, "loss must be a function or one of ce, margin"),
        ({"loss": lambda z, y: z}, ValueError, r"must return one loss per sample \[2\], got \[2, 10\]"),
        ({"loss": "dlr_targeted"}, ValueError, "loss 'dlr_targeted' needs targets"),
        ({"loss": "kl", "random_start": False}, ValueError, "loss 'kl' has no gradient at x itself"),
        ({"x": [[0.5]]}, TypeError, "x must be a torch.Tensor, got list"),
        ({"x": torch.tensor(0.5)}, ValueError, "x must have a batch dimension, got a 0-d tensor"),
        ({"start": [0.0]}, TypeError, "start must be a floating-point tensor, got list"),
        ({"start": torch.full((2, 3, 12, 12), math.nan)}, ValueError, "start holds values that are not finite"),
        ({"eps": math.inf}, ValueError, "eps must be finite, got inf: a ball as wide as the box"),
        ({"eps": torch.full((2,), math.inf)}, ValueError, "eps must be at most 3.40282e\\+38, got inf"),
        ({"step_size": torch.full((2,), math.inf)}, ValueError, "step_size must be at most 3.40282e\\+38, got inf"),
        ({"y": torch.zeros(2)}, TypeError, r"y must be an integer tensor, got torch.float32: y.long\(\)"),
        ({"bounds": ("a", 1)}, TypeError, "bounds must be numbers, tensors or None, got str"),
        ({"x": torch.rand(2, 3, 12, 12) - 0.5, "bounds": (0.0, None)}, ValueError, "outside the bounds .0, inf."),
        ({"x": torch.rand(2, 3, 12, 12).half(), "normalization": (0.5, 0.5)}, ValueError, "pass x.float"),
        ({"keep": "first"}, ValueError, "keep must be 'last' or 'best', got 'first'"),
        ({"bounds": (1.0, 0.0)}, ValueError, "bounds must have lower < upper"),
        ({"start": torch.zeros(1)}, ValueError, r"start must have shape .2, 3, 12, 12. on cpu, got .1. on cpu"),
        ({"normalization": (0.5, 0.0)}, ValueError, "std must be > 0, got 0.0"),
        ({"normalization": [0.5]}, TypeError, r"normalization must be a pair \(mean, std\), got \[0.5\]"),
        ({"normalization": 0.5}, TypeError, r"normalization must be a pair \(mean, std\), got 0.5"),
        ({"normalization": (0.5, 10**400)}, ValueError, "std must be a finite number or 3 of them, got 1000"),
        (
            {"normalization": (10**5000, 1.0)},
            ValueError,
            "mean must be a finite.*got a number of too many digits",
        ),
        ({"normalization": (math.nan, 1.0)}, ValueError, "mean must be finite, got nan"),
        ({"normalization": (None, 1.0)}, TypeError, "mean must be a finite number or 3 of them, got None"),
        ({"model": lambda x: torch.zeros(2, 10)}, ValueError, "no gradient with respect to x"),
        (
            {"loss": lambda z, y: F.cross_entropy(z, y), "keep": "best"},
            ValueError,
            r"one loss per sample \[2\], got \[\] \(one number for the batch will do where nothing is ranked",
        ),
        ({"model": lambda x: x.detach().flatten(1)}, ValueError, "no gradient with respect to x"),
        ({"model": lambda x: x}, ValueError, r"y must have shape \[2, 12, 12\] for logits \[2, 3, 12, 12\], one label"),
        (
            {"model": lambda x: x[:1].flatten(1)},
            ValueError,
            r"the model must return logits \[2, C, ...\], got \[1, 432",
        ),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {"model": network(), "x": torch.rand(2, 3, 12, 12), "y": torch.tensor([0, 1])} | change
    with pytest.raises(error, match=message):
        pgd(**arguments)


def test_early_stop_refuses_batch_norm_in_train_mode():
    model = network(batch_norm=True).train()
    x, y = torch.rand(2, 3, 12, 12), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="early_stop changes the batch"):
        pgd(model, x, y, early_stop=True)
    pgd(model.eval(), x, y, steps=1, early_stop=True)
    model[1] = nn.BatchNorm2d(8, track_running_stats=False).eval()  # normalizes by the batch in any mode
    with pytest.raises(ValueError, match="early_stop changes the batch"):
        pgd(model, x, y, early_stop=True)


def test_empty_batch(model):
    x, y = torch.zeros(0, 3, 12, 12), torch.zeros(0, dtype=torch.int64)
    assert pgd(model, x, y).shape == x.shape and fgsm(model, x, y).shape == x.shape


def test_a_ddp_model_can_be_attacked_in_training(tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = network().train()
        wrapped = DistributedDataParallel(model)
        x, y = torch.rand(4, 3, 12, 12), torch.arange(4)
        for _ in range(2):
            x_adv = pgd(wrapped, x, y, steps=2, seed=1)
            F.cross_entropy(wrapped(x_adv), y).backward()
        assert torch.equal(x_adv, pgd(model, x, y, steps=2, seed=1))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", P)
def test_half_precision_is_won_where_it_is_returned(norm, dtype):
    """What the model is shown is inside the ball in the dtype of the data, so that what is won stays won."""
    model = network()
    x, y = torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(1)).to(dtype), None
    model = model.to(dtype)
    y = model(x).argmax(1)
    shown = []
    model.register_forward_pre_hook(lambda module, args: shown.append(args[0].detach().clone()))
    found = pgd(model, x, y, EPS[norm], norm=norm, seed=0, early_stop=True, random_start=False)
    for z in shown:
        if len(z) == len(x):
            size = (z.double() - x.double()).flatten(1).norm(P[norm], dim=1)
            assert (size <= EPS[norm] * (1 + 1e-5) + 1e-6).all()
    last = len(shown)
    pgd(model, x, y, EPS[norm], steps=3, norm=norm, seed=0)
    end = pgd(model, x, y, EPS[norm], EPS[norm] / 1.2, steps=2, norm=norm, seed=0)
    seen = pgd(model, x, y, EPS[norm], EPS[norm] / 1.2, steps=3, norm=norm, seed=0)
    assert torch.equal(shown[-1], end) and not torch.equal(seen, end) and len(shown) > last
    iterates = [pgd(model, x, y, EPS[norm], EPS[norm] / 4, k, norm, random_start=False) for k in range(10)]
    broken = torch.stack([model(a).argmax(1) != y for a in iterates]).any(0)
    stopped = pgd(model, x, y, EPS[norm], EPS[norm] / 4, 10, norm, random_start=False, early_stop=True)
    wrong = model(stopped).argmax(1) != y
    assert (wrong == broken).float().mean() > 0.9 and wrong.any() and found.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_noise_beyond_the_ball_is_shown_as_it_is_in_half_precision(dtype):
    model, shown = network().to(dtype), []
    x = torch.rand(8, 3, 12, 12).to(dtype)
    model.register_forward_pre_hook(lambda module, args: shown.append(args[0].detach().clone()))
    fgsm(model, x, torch.zeros(8, dtype=torch.int64), 0.1, noise=2, clip=False, bounds=None, seed=0)
    start = ops.random_start(x.float(), 0.2, "linf", 0, None, None, None)
    assert (shown[0].float() - start).abs().max() <= 2 * torch.finfo(dtype).eps and (shown[0] - x).abs().max() > 0.15
