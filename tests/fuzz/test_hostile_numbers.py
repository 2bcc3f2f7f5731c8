"""Numbers that floats do not hold, tensors that are not dense and models that write their input."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import fastat
from fastat.evaluation import adversarial_losses, predict, robust_accuracy_curve, wilson_interval
from fastat.support.keyed import derive_seed

HUGE = 10**400
X, Y = torch.full((2, 3), 0.5), torch.tensor([0, 1])
MODEL = nn.Linear(3, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastat.pgd(MODEL, X, Y, eps=HUGE),
        lambda: fastat.pgd(MODEL, X, Y, steps=HUGE),
        lambda: fastat.pgd(MODEL, X, Y, restarts=2**63),
        lambda: fastat.pgd(MODEL, X, Y, momentum=HUGE),
        lambda: fastat.fgsm(MODEL, X, Y, noise=HUGE),
        lambda: fastat.fgsm(MODEL, X, Y, bounds=(HUGE, 1)),
        lambda: fastat.linf_step_(X.clone(), X, X, HUGE, 0.1),
        lambda: fastat.linf_step_(X.clone(), X, X, 0.1, 0.1, lower=HUGE),
        lambda: fastat.holistic_weights(torch.ones(3), HUGE, 0.1),
        lambda: fastat.certificate(3, HUGE),
        lambda: fastat.certificate(HUGE, 0.1),
        lambda: fastat.trades_loss(X, X, Y, HUGE),
        lambda: fastat.trades_loss(X, X, Y, label_smoothing=HUGE),
        lambda: fastat.protocol("hr", eps=0.1, r=HUGE),
        lambda: fastat.protocols.Attack(eps=HUGE),
        lambda: fastat.Normalized(MODEL, HUGE, 1.0),
        lambda: wilson_interval(0.5, HUGE),
        lambda: robust_accuracy_curve(MODEL, X, Y, [HUGE]),
    ],
)
def test_a_number_that_no_float_holds_is_a_value_error(call):
    with pytest.raises(ValueError, match=r"must (be|have)"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastat.pgd(MODEL, X.to_sparse(), Y),
        lambda: fastat.linf_step_(X.clone(), X.to_sparse(), X, 0.1, 0.1),
        lambda: fastat.pgd(MODEL, X, Y, mask=torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)),
        lambda: fastat.evaluate(MODEL, (X.to_sparse(), Y), 0.1),
        lambda: fastat.pgd(MODEL, X, Y.to_sparse()),
        lambda: fastat.pgd(MODEL, X, torch.quantize_per_tensor(Y.float(), 1.0, 0, torch.quint8)),
        lambda: fastat.pgd(MODEL, X.to(torch.float8_e4m3fn), Y),
        lambda: fastat.Normalized(MODEL, 0.5, 0.5)(X.to(torch.uint8)),
        lambda: fastat.evaluate(MODEL, (X, Y), 0.1, sample_ids=3),
        lambda: fastat.evaluate(MODEL, (X, Y), 0.1, seed=1.5),
        lambda: adversarial_losses(MODEL, None, Y, 0.1),
        lambda: fastat.gradient_misalignment(MODEL, None, Y, 0.1),
        lambda: predict(MODEL, None),
        lambda: fastat.fgsm(MODEL, X, Y, bounds=(False, 1)),
    ],
)
def test_what_is_no_dense_tensor_or_no_number_is_a_type_error(call):
    with pytest.raises(TypeError, match="must be"):
        call()


@pytest.mark.parametrize("loss", ["cross-entropy", "trades", "mart"])
def test_inputs_stay_where_the_model_works_in_place(loss):
    model = nn.Sequential(nn.ReLU(inplace=True), MODEL)
    x = torch.full((2, 3), -0.5)
    fastat.evaluate(model, (x, Y), 0.1, attacks=[], bounds=None)
    predict(model, x)
    outcome = fastat.protocols.Protocol(lambda model, x, y: x, loss).outcome(model, x, Y)
    assert torch.equal(x, torch.full((2, 3), -0.5))
    assert torch.equal(outcome.x_adv, x)


@pytest.mark.parametrize("output", [lambda x: x.sum(), lambda x: x[None], lambda x: x[:, :0], lambda x: x.to_sparse()])
def test_outputs_that_are_no_logits_are_refused(output):
    with pytest.raises(ValueError, match="must return logits"):
        predict(output, X)


def test_numbers_of_numpy_and_fractions_do():
    protocol = fastat.protocol("hr", eps=np.float32(0.5), alpha=Fraction(1, 4), r=np.float64(0.5))
    assert protocol.as_dict()["objective"] == {"name": "holistic", "alpha": 0.25, "r": 0.5, "order": "hd"}
    assert "alpha 0.25" in str(protocol)
    assert fastat.trades_loss(X, X, Y, Fraction(1, 2)) == fastat.trades_loss(X, X, Y, 0.5)
    assert derive_seed(np.int64(5), 1) == derive_seed(5, 1)
    assert robust_accuracy_curve(MODEL, X, Y, [np.float32(0)], batch_size=np.int64(2)) == [
        (predict(MODEL, X) == Y).double().mean().item()
    ]
    assert not math.isnan(adversarial_losses(MODEL, X, Y.int(), 0.1, attack="fgsm", seed=np.int64(5)).sum().item())
