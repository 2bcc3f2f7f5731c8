"""Networks so sure that a float32 cross-entropy has no gradient: attacked as well as on logits that are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastat
from fastat.evaluation import adversarial_losses, evaluate


def sure(scale, classes=10, dtype=torch.float64):
    """A linear model, images, labels that it predicts, and the signs of the gradient of the log-odds in float64."""
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(64, classes, bias=False)
    model.weight.data = scale * torch.randn(classes, 64, generator=g)
    x = torch.rand(50, 64, generator=g)
    y = model(x).argmax(1)
    leaf = x.double().requires_grad_()
    logits = leaf @ model.weight.double().T
    others = logits.masked_fill(F.one_hot(y, classes).bool(), -torch.inf).logsumexp(1)
    (grad,) = torch.autograd.grad((others - logits.gather(1, y[:, None])[:, 0]).sum(), leaf)
    return model.eval(), x, y, grad


@pytest.mark.parametrize("scale", [1, 10, 100, 1000])
@pytest.mark.parametrize("loss", ["ce", "log_odds"])
def test_fgsm_moves_every_image_the_right_way(scale, loss):
    model, x, y, grad = sure(scale)
    moved = fastat.fgsm(model, x, y, 0.01, bounds=None, loss=loss) - x
    clear = grad.abs() > 1e-4 * grad.abs().amax(1, keepdim=True)  # the rest is rounding
    assert torch.equal(moved.sign()[clear].double(), grad.sign()[clear])


def test_the_textbook_cross_entropy_is_there_where_it_is_asked_for():
    model, x, y, _ = sure(300)
    own = fastat.fgsm(model, x, y, 0.01, bounds=None, loss=lambda z, y: F.cross_entropy(z, y, reduction="none"))
    assert ((own == x).all(1)).float().mean() > 0.5  # no gradient left
    assert not (fastat.fgsm(model, x, y, 0.01, bounds=None) == x).all(1).any()


def test_targets_of_a_sure_model_are_reached():
    model, x, y, _ = sure(300)
    targets = (y + 1) % 10
    x_adv = fastat.pgd(model, x, y, 1.0, steps=20, targets=targets, seed=0, early_stop=True)
    assert (model(x_adv).argmax(1) == targets).float().mean() > 0.9


def test_best_and_restarts_rank_what_the_cross_entropy_cannot():
    """Losses that are exactly 0 in float32 differ all the same: the best iterate is the least sure."""
    model, x, y, _ = sure(1000)
    eps, size = 0.02, 0.03  # steps too long: the loss goes up and down
    iterates = [fastat.pgd(model, x, y, eps, size, steps=k, seed=1) for k in range(6)]
    odds = torch.stack([fastat.attack_loss(model(i).detach(), y, "log_odds")[0] for i in iterates])
    kept = fastat.pgd(model, x, y, eps, size, steps=5, seed=1, keep="best")
    found = fastat.attack_loss(model(kept).detach(), y, "log_odds")[0]
    assert F.cross_entropy(model(kept), y, reduction="none").eq(0).any()
    torch.testing.assert_close(found, odds.amax(0), rtol=1e-5, atol=1e-3)
    one = fastat.pgd(model, x, y, eps, steps=2, seed=1)
    more = fastat.pgd(model, x, y, eps, steps=2, seed=1, restarts=5)
    first, best = (fastat.attack_loss(model(a).detach(), y, "log_odds")[0] for a in (one, more))
    assert (best >= first - 1e-3).all() and (best > first + 1e-3).any()


@pytest.mark.parametrize("temperature", [100.0, 1e4, 1e6])
def test_accuracy_does_not_depend_on_how_sure_a_network_is(temperature):
    """In float64, where a network and the same one with its logits stretched are attacked alike."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5)).double().eval()
    x = torch.rand(200, 20, dtype=torch.float64)
    y = network(x).argmax(1)
    stretched = Stretched(network, temperature)
    attacks = ("fgsm", "pgd-10", "pgd-5x3")
    plain = evaluate(Stretched(network, 30.0), x, y, 0.03, attacks=attacks)
    found = evaluate(stretched, x, y, 0.03, attacks=attacks)
    assert 0.1 < plain.accuracy["pgd-10"] < 0.9
    for name in attacks:
        assert abs(found.accuracy[name] - plain.accuracy[name]) <= 0.04


class Stretched(nn.Module):
    def __init__(self, network, temperature):
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, x):
        return self.temperature * self.network(x)


def test_adversarial_losses_are_reported_as_cross_entropies():
    model, x, y, _ = sure(300)
    losses = adversarial_losses(model, x, y, 0.02, attack="pgd-5", bounds=None)
    x_adv = fastat.pgd(model, x, y, 0.02, steps=5, keep="best", bounds=None, seed=0)
    expected = F.cross_entropy(model(x_adv), y, reduction="none")
    assert (losses >= 0).all() and losses.shape == expected.shape and 0 < losses.eq(0).sum() < len(y)


class Batched(nn.Module):
    """Batch norm before a linear layer: in train mode every sample's output depends on all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.norm, self.linear = nn.BatchNorm1d(12), nn.Linear(12, 4)

    def forward(self, x):
        return 3 * self.linear(self.norm(x).relu())


@pytest.mark.parametrize("as_function", [False, True])
def test_coupled_samples_keep_the_textbook_gradient(as_function):
    model = Batched().double().train()
    x, y = torch.rand(16, 12, dtype=torch.float64), torch.randint(4, (16,))
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    attacked = (lambda z: model(z)) if as_function else model
    with pytest.warns(fastat.WeakAttackWarning, match="train mode"):
        found = fastat.fgsm(attacked, x, y, 0.1, bounds=None) - x
    assert torch.equal(found.sign(), grad.sign())
    log_odds = fastat.fgsm(attacked, x, y, 0.1, bounds=None, loss="log_odds", training=True) - x
    assert not torch.equal(log_odds.sign(), grad.sign())  # it is not the same there


def test_training_attacks_ascend_the_textbook_cross_entropy():
    model, x, y, _ = sure(300)
    found = fastat.protocol("fgsm-at", eps=0.01).attack(model, x, y)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    assert ((found == x).all(1)).any()  # none is left there
    moved = grad.abs() > 1e-3 * grad.abs().amax()
    assert (
        torch.equal((found - x).sign()[moved], grad.sign()[moved]) or (found[moved] == x[moved]).float().mean() < 0.05
    )


def test_gradients_of_several_passes_are_those_of_the_cross_entropy():
    model, x, y, _ = sure(300)
    x_adv = fastat.pgd(model, x, y, 0.01, 0.01, steps=1, random_start=False, bounds=None, samples=2)
    assert ((x_adv == x).all(1)).any()


def test_a_recording_of_one_is_not_replayed_for_the_other(recorder):
    model, x, y, _ = sure(300)
    found = {}
    for training in (False, True, False, True):
        x_adv = fastat.pgd(model, x, y, 0.01, steps=2, seed=0, bounds=None, graph=True, training=training)
        plain = fastat.pgd(model, x, y, 0.01, steps=2, seed=0, bounds=None, training=training)
        assert torch.equal(x_adv, plain)
        found[training] = x_adv
    assert recorder.made == 2 and not torch.equal(found[False], found[True])
