"""Adversarial training for free: the perturbation lives on from step to step and from batch to batch."""

import pytest
import torch
import torch.nn.functional as F
from killing import assert_resumes
from training_cases import config_of

from fastat.support.files import load_checkpoint
from fastat.support.keyed import keyed_permutation
from fastat.training import images, open_configured, train_configured, with_fields
from fastat.training import loop as training
from fastat.training.schedules import schedule_of

FREE = config_of("free", replays=2)


def test_steps_are_those_of_the_algorithm(tmp_path, in_double):
    """Algorithm 1 of Shafahi et al. (2019) in plain PyTorch: one backward pass moves the weights and delta."""
    config = with_fields(FREE, epochs=1, train_size=128, weight_decay=0.0, momentum=0.0)
    run = open_configured(config, tmp_path / "run", None, torch.device("cpu"))
    batches = list(training.rest_of_epoch(run))
    for batch in batches:
        training.take_step(run, batch)
        run.state.current.step += 1

    other = open_configured(config, tmp_path / "other", None, torch.device("cpu"))
    model, delta = other.learner.model.train(), torch.zeros(32, 1, 8, 8)
    order = keyed_permutation(128, config.run.seed, 0, images._ORDER)
    number = 0
    for start in (0, 32):  # two batches, twice each: as many steps as an epoch of four batches has
        index = order[start : start + 32]
        x, y = other.images.train_set.pixels()[index], other.images.train_set.labels[index]
        for _ in range(2):
            shifted = (x + delta).clamp(0, 1).requires_grad_()
            loss = F.cross_entropy(model(shifted), y)
            *gradients, by_x = torch.autograd.grad(loss, [*model.parameters(), shifted])
            rate = config.optimizer.lr * schedule_of(config.optimizer).rate((number + 0.5) / 4)
            lr = torch.tensor(rate).float().item()  # a float32 in training
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p -= lr * g
            delta = (delta + config.threat.eps * by_x.sign()).clamp(-config.threat.eps, config.threat.eps)
            assert float(run.state.current.marks.losses[number]) == pytest.approx(loss.item(), rel=1e-6)
            number += 1
    for ours, theirs in zip(run.learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(run.learner.delta, delta, rtol=0, atol=1e-12)
    assert float(run.learner.delta.abs().max()) <= config.threat.eps + 1e-12


def test_batches_come_replayed_and_passes_over_the_images_span_epochs(tmp_path):
    config = with_fields(FREE, epochs=4, replays=2, train_size=96)
    run = open_configured(config, tmp_path, None, torch.device("cpu"))
    ids = []
    for epoch in range(4):
        run.state.epoch = epoch
        ids += [tuple(batch.ids.tolist()) for batch in training.rest_of_epoch(run)]
    assert len(ids) == 12
    assert ids[0::2] == ids[1::2]
    everything = sorted(run.images.train_set.ids.tolist())
    assert sorted(sum(ids[0:6:2], ())) == everything  # six steps are one pass
    assert sorted(sum(ids[6:12:2], ())) == everything
    assert ids[0] != ids[6]
    run.state.epoch, run.state.current.step = 1, 1  # in the middle of a replayed batch
    assert [tuple(batch.ids.tolist()) for batch in training.rest_of_epoch(run)] == ids[4:6]


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_keep_to_their_ball(tmp_path, norm):
    config = with_fields(FREE, norm=norm, eps=0.5)
    train_configured(config, tmp_path)
    delta = load_checkpoint(tmp_path / "checkpoint.pt")["delta"].flatten(1)
    size = delta.norm(dim=1) if norm == "l2" else delta.abs().sum(1)
    assert float(size.max()) <= 0.5 + 1e-5
    assert float(size.max()) > 0.4


def test_resumed_to_the_bit_with_its_perturbation(tmp_path, monkeypatch):
    assert_resumes(monkeypatch, with_fields(FREE, epochs=3, objective="holistic", protocol="hr"), tmp_path, 4)
