"""Accuracies that can be computed by hand, on linear models."""

import pytest
import torch
from torch import nn

from fastat.evaluation import adversarial_losses, evaluate, robust_accuracy_curve, wilson_interval
from fastat.graphs import replay as graphs


class Threshold(nn.Module):
    """Class 1 where the mean pixel is above one half; the linf distance to the boundary is |mean - 0.5|."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = 10 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-score, score], 1)


def constant_images(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


X = constant_images(0.1, 0.35, 0.45, 0.55, 0.65, 0.9, 0.8, 0.2)
Y = torch.tensor([0, 0, 0, 1, 1, 1, 0, 1])  # the last two are wrong without any attack


@pytest.mark.parametrize(("eps", "robust"), [(0.01, 6), (0.1, 4), (0.2, 2), (0.45, 0)])
def test_known_robust_accuracy(eps, robust):
    found = evaluate(Threshold(), X, Y, eps, attacks=("fgsm", "pgd-20", "pgd-5x3"))
    assert found.n == 8
    assert found.accuracy == {"clean": 6 / 8, "fgsm": robust / 8, "pgd-20": robust / 8, "pgd-5x3": robust / 8}


def test_l2():
    # the mean over four pixels: the l2 distance to the boundary is twice |mean - 0.5|
    found = evaluate(Threshold(), X, Y, 0.2, "l2", attacks=("pgd-20",))
    assert found.accuracy["pgd-20"] == 4 / 8
    assert found.norm == "l2"


def test_an_image_that_is_wrong_already_is_not_robust():
    # pushed by its attack, the image of value 0.8 and label 0 would go further away, and never back
    found = evaluate(Threshold(), X[6:], Y[6:], 0.4)
    assert set(found.accuracy.values()) == {0.0}


def test_curve():
    assert robust_accuracy_curve(Threshold(), X, Y, [0.2, 0.0, 0.1]) == [2 / 8, 6 / 8, 4 / 8]


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_batch_size_and_order_do_not_matter():
    model, x = small_network().double(), torch.rand(40, 1, 8, 8, dtype=torch.float64)
    y = model.eval()(x).argmax(1)
    whole = evaluate(model, x, y, 0.05)
    parts = evaluate(model, x, y, 0.05, batch_size=7)
    order = torch.randperm(40)
    permuted = evaluate(model, x[order], y[order], 0.05, sample_ids=order)
    for name, correct in whole.correct.items():
        assert parts.correct[name].equal(correct)
        assert permuted.correct[name].equal(correct[order])
    assert 0 < whole.accuracy["pgd-20"] < 1


def test_model_is_left_as_found():
    model = small_network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, torch.rand(6, 1, 8, 8), torch.zeros(6).long(), 0.1, attacks=("fgsm", "pgd-2"))
    assert model.training
    assert not model[1].training
    assert model[2].training
    assert not model[0].weight.requires_grad
    assert model[4].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_mode_is_restored_after_an_error():
    model = small_network().train()
    with pytest.raises((RuntimeError, ValueError)):
        evaluate(model, torch.rand(2, 5, 8, 8), torch.zeros(2).long(), 0.1)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": ("pgd",)}, "unknown attack 'pgd'; known are fgsm, pgd-STEPS"),
        ({"attacks": ("pgd-0",)}, "unknown attack 'pgd-0'"),
        ({"x": X[:0], "y": Y[:0]}, "at least one image"),
        ({"y": Y[:3]}, r"got x \(8, 1, 2, 2\) and labels \(3,\)"),
        ({"sample_ids": Y[:3]}, "sample_ids must have the shape of y"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
    ],
)
def test_rejects(change, message):
    given = {"x": X, "y": Y, **change}
    with pytest.raises(ValueError, match=message):
        evaluate(Threshold(), given.pop("x"), given.pop("y"), 0.1, **given)


@pytest.mark.parametrize("attack", ["fgsm", "pgd-5", "pgd-4x3"])
def test_adversarial_losses_by_hand(attack):
    eps = 0.07
    found = adversarial_losses(Threshold(), X, Y, eps, attack=attack)
    towards = torch.where(Y == 1, -1.0, 1.0)  # the worst case moves the mean to the other class, within the box
    mean = (X.flatten(1).mean(1) + eps * towards).clamp(0, 1)
    expected = torch.nn.functional.softplus(20 * (mean - 0.5) * towards)
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32


def test_adversarial_losses_do_not_depend_on_batches_and_grow_with_the_attack():
    model, x, y = small_network().double().train(), torch.rand(40, 1, 8, 8, dtype=torch.float64), torch.arange(40) % 3
    whole = adversarial_losses(model, x, y, 0.1)
    assert whole.dtype == torch.float64
    assert model.training
    order = torch.randperm(40)
    parts = adversarial_losses(model, x[order], y[order], 0.1, batch_size=7, sample_ids=order)
    torch.testing.assert_close(parts, whole[order])
    clean = adversarial_losses(model, x, y, 0.0)
    torch.testing.assert_close(clean, torch.nn.functional.cross_entropy(model.eval()(x), y, reduction="none"))
    assert (whole >= clean - 1e-5).all()
    assert (adversarial_losses(model, x, y, 0.1, attack="pgd-10x3", seed=0) >= whole - 1e-6).all()
    assert not adversarial_losses(model, x, y, 0.1, attack="pgd-1", seed=1).equal(
        adversarial_losses(model, x, y, 0.1, attack="pgd-1", seed=2)
    )
    with pytest.raises(ValueError, match="unknown attack 'apgd'"):
        adversarial_losses(model, x, y, 0.1, attack="apgd")


ATTACKING = [
    lambda model, x, y, graph: (
        evaluate(model, x, y, 0.05, attacks=("fgsm", "pgd-4"), batch_size=20, graph=graph).accuracy
    ),
    lambda model, x, y, graph: robust_accuracy_curve(model, x, y, [0.02, 0.05], batch_size=20, graph=graph),
    lambda model, x, y, graph: adversarial_losses(model, x, y, 0.05, batch_size=20, graph=graph).mean(),
]


@pytest.mark.parametrize("attacking", ATTACKING)
def test_attacks_are_recorded_unless_refused(recorder, attacking):
    model, x = small_network(), torch.rand(40, 1, 8, 8)
    y = model.eval()(x).argmax(1)
    plain = attacking(model, x, y, False)
    assert recorder.made == 0 and model not in graphs._all_recordings
    assert attacking(model, x, y, "auto") == pytest.approx(plain)
    assert recorder.made > 0 and model in graphs._all_recordings
    with pytest.raises(ValueError, match="graph must be True, False or 'auto', got 'yes'"):
        attacking(model, x, y, "yes")


@pytest.mark.parametrize("attacking", ATTACKING)
def test_what_cannot_be_recorded_is_an_error_where_it_must_be(attacking):
    model, x = small_network().eval(), torch.rand(40, 1, 8, 8)
    with pytest.raises(graphs.CaptureError, match="CUDA tensors are needed"):
        attacking(model, x, model(x).argmax(1), True)


def test_wilson_interval():
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662
    low, high = wilson_interval(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0.0, 20)[0] == 0.0
    assert wilson_interval(1.0, 20)[1] == 1.0
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        wilson_interval(0.5, 0)


def test_cudnn_measures_nothing_for_batches_of_changing_size(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = []

    class Model(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cudnn.benchmark)
            return x.flatten(1)[:, :4]

    evaluate(Model(), torch.rand(4, 1, 2, 2), torch.arange(4), 0.1, attacks=("fgsm",))
    assert seen and not any(seen)
    assert torch.backends.cudnn.benchmark
