"""The same attack by other libraries, from their packages: same start, same iterates, no lower success.

Installed by ``make test``; each test skips without its peer.
"""

import pytest
import torch
from torch import nn

from fastat import pgd

pytestmark = pytest.mark.peers
EPS, STEP, STEPS = 8 / 255, 2 / 255, 10


@pytest.fixture(scope="module")
def case():
    """A small network trained a little on digits' sums of pixels, so that its decisions mean something."""
    torch.manual_seed(0)
    x = torch.rand(96, 3, 12, 12)
    y = (x.mean(dim=(2, 3)) + 0.1 * torch.randn(96, 3)).argmax(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 100, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), x, y


def ours(case, **kwargs):
    model, x, y = case
    return pgd(model, x, y, EPS, STEP, STEPS, random_start=False, **kwargs)


def robust_accuracy(case, x_adv):
    model, _, y = case
    return (model(x_adv).argmax(1) == y).float().mean().item()


def assert_same_attack(case, peer, x_adv):
    # A gradient entry within rounding of zero may take the other sign and end a step away: nearly all must agree.
    assert ((peer - x_adv).abs() < 1e-6).float().mean() > 0.999
    assert robust_accuracy(case, x_adv) <= robust_accuracy(case, peer) + 1e-6


def test_torchattacks(case):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed (make test installs it)")
    model, x, y = case
    peer = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=False)(x, y)
    assert_same_attack(case, peer, ours(case))


def test_foolbox(case):
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed (make test installs it)")
    model, x, y = case
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, peer, _ = attack(wrapped, x, y, epsilons=EPS)
    assert_same_attack(case, peer, ours(case))


def test_adv_lib(case):
    attacks = pytest.importorskip("adv_lib.attacks", reason="adv-lib is not installed (make test installs it)")
    model, x, y = case
    # It returns the last iterate that succeeds, else x, and never looks at the last one: give it a step more.
    peer = attacks.pgd_linf(model, x, y, EPS, steps=STEPS + 1, random_init=False, absolute_step_size=STEP)
    expected = x
    for steps in range(STEPS + 1):
        iterate = pgd(model, x, y, EPS, STEP, steps, random_start=False)
        wrong = model(iterate).argmax(1) != y
        expected = torch.where(wrong.view(-1, 1, 1, 1), iterate, expected)
    assert_same_attack(case, peer, expected)
    assert robust_accuracy(case, ours(case, early_stop=True)) <= robust_accuracy(case, peer) + 1e-6


def test_torchattacks_l2(case):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed (make test installs it)")
    model, x, y = case
    peer = torchattacks.PGDL2(model, eps=1.0, alpha=0.2, steps=STEPS, random_start=False)(x, y)
    x_adv = pgd(model, x, y, 1.0, 0.2, STEPS, "l2", random_start=False)
    assert (peer - x_adv).abs().max() < 1e-5
    assert robust_accuracy(case, x_adv) <= robust_accuracy(case, peer) + 1e-6
