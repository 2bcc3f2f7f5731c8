"""What a run is watched by: accuracies on images set apart, and what follows from a collapse."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fastat.data import Dataset
from fastat.evaluation import evaluate_images
from fastat.support.distributed import rank_of, size_of, sum_
from fastat.training import monitors
from fastat.training.checkpoint import go_back, snapshot
from fastat.training.progress import Display
from fastat.training.run import Run
from fastat.training.state import State

WATCHED = ("fgsm", "pgd-20")
"""What the validation images are attacked by after every epoch."""

_PROBES = ("fgsm", "pgd-10")
_MOST_ROLLBACKS = 5


def validate(run: Run) -> dict[str, float]:
    """Accuracies on the validation images."""
    val_set = run.images.val_set
    return {} if val_set is None else accuracy_of(run, val_set, WATCHED, run.learner.evaluated)


def react_to_validation(run: Run, display: Display, accuracy: Mapping[str, float]) -> None:
    """Takes them as a probe too, if they are those of the very weights that are trained."""
    val_set = run.images.val_set
    if val_set is not None and run.learner.average is None and run.attacked:
        _react(run, display, accuracy, len(val_set))


def probe(run: Run, display: Display) -> None:
    """Looks for catastrophic overfitting of the very weights that are trained."""
    images = run.images.probe_set
    _react(run, display, accuracy_of(run, images, _PROBES, run.learner.model), len(images))


def report(state: State, display: Display, monitor: str, text: str) -> None:
    """Keeps and shows what a monitor saw."""
    found = {"monitor": monitor, "step": state.step, "text": text}
    state.current.findings.append(found)
    display.finding(found)


def _react(run: Run, display: Display, found: Mapping[str, float], images: int) -> None:
    """Looks at accuracies for catastrophic overfitting and does what the configuration says about it."""
    state, watch, reaction = run.state, run.state.watch, run.settings.on_collapse
    if not monitors.collapsed(watch.best, found):
        watch.best, watch.collapsed = max(watch.best, monitors.pgd_of(found)), False
        if reaction == "rollback":
            state.sound = snapshot(run.learner, state.averaged)
        return
    if watch.collapsed:
        return
    text = (
        f"seen at step {state.step}: PGD accuracy {monitors.pgd_of(found):.1%} after {watch.best:.1%} at best, "
        f"FGSM accuracy {found['fgsm']:.1%} ({images} images)"
    )
    watch.collapsed = True
    if reaction == "stop" or watch.rollbacks == _MOST_ROLLBACKS:
        state.stopped = monitors.CATASTROPHIC
        text += "; stopped"
    elif reaction == "rollback" and state.sound:
        go_back(run.learner, state)
        watch.rollbacks, watch.collapsed = watch.rollbacks + 1, False
        text += "; back to the last sound weights"
    report(state, display, monitors.CATASTROPHIC, text)


def accuracy_of(run: Run, images: Dataset, attacks: tuple[str, ...], model: nn.Module) -> dict[str, float]:
    """Accuracies on the images, each process measuring its share of them."""
    learner, group, device = run.learner, run.learner.place.group, run.learner.place.device
    own = torch.arange(rank_of(group), len(images), size_of(group), device=device)
    share = images.take(own)
    counts = torch.zeros(1 + len(attacks), device=device)
    if len(share) > 0:
        found = evaluate_images(
            run.front.before(model),
            share,
            run.learner.threat,
            attacks=attacks,
            seed=learner.seed,
            graph="auto" if learner.replay.wanted else False,
        )
        right = torch.tensor([found.accuracy[name] for name in ("clean", *attacks)], device=device)
        counts += right * len(share)
    sum_([counts], group)
    numbers = (counts.round() / len(images)).tolist()
    return dict(zip(("clean", *attacks), numbers, strict=True))
