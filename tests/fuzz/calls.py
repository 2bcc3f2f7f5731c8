"""What is called: a line for each public function, with its arguments, and a call from a seed and a number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import judge
from .case import Case, Line
from .hostile import made_hostile
from .judge import Rule
from .valid import World, source_of

_LEFT_OUT = 0.7


@dataclass(frozen=True)
class Call:
    """A function and its arguments.

    Attributes:
        function: an expression; it may use the names of lines that are made and not passed.
        arguments: names, each with its kind (``valid.KINDS``) after a colon where the two differ, in the order in which
            they are made; with "?" they are optional, with "_" before them they are made and not passed.
        rule: what must hold of the result.
        writes: arguments that are written.
        draws: whether torch's generator may be used: where ``seed`` is None.
        norm: that of the function; None where it is an argument, or there is none.
        weight: how often it is called, relative to others.
    """

    function: str
    arguments: str
    rule: Rule = judge.anything
    writes: tuple[str, ...] = ()
    draws: bool = False
    norm: str | None = None
    weight: float = 1.0
    kinds: dict[str, str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        named = [word.strip("_?").replace("?", "") for word in self.arguments.split()]
        pairs = [word.partition(":") for word in named]
        object.__setattr__(self, "kinds", {name: kind or name for name, _, kind in pairs})

    def case(self, rng: random.Random, hostile: bool) -> Case:
        """One call, of valid arguments or not."""
        world = World.drawn(rng, self.norm)
        lines = [Line(name, source, source) for name, source in world.sources.items()]
        passed = []
        for word in self.arguments.split():
            if "?" in word and rng.random() < _LEFT_OUT:
                continue
            name = word.partition(":")[0].strip("_?")
            kind = self.kinds[name]
            if kind == "norm":
                lines.append(Line(name, repr(world.norm), "'linf'"))
            else:
                lines.append(Line(name, source_of(kind, rng, world), source_of(kind, rng, world, odd=False)))
            if not word.startswith("_"):
                passed.append(name)
        case = Case(self.function, rng.randrange(2**31), tuple(lines), tuple(passed))
        return made_hostile(case, {n: k for n, k in self.kinds.items() if k != "protocol"}, rng) if hostile else case


_STEP = "x:image x_adv:iterate grad:like_x step_size eps:radius lower? upper?"
_ATTACKED = "x:image y:labels model eps norm bounds"
_OF_ATTACKS = (
    " loss? targets?:labels inputs? mask? seed? sample_ids?:ids normalization? training?:flag graph? validate?:flag"
)
_SET = "x:image y:labels model"
_OF_SETS = " norm? batch_size?:count bounds:number_bounds seed?:seed_number sample_ids?:ids graph?"
_OPTIONS = "eps:number norm? bounds?:number_bounds steps?:count step_size?:positive"
_BUDGETS = " alpha:budget r:budget order?"

CALLS: tuple[Call, ...] = (
    # ops
    Call("fastat.linf_step_", _STEP, judge.linf_step, ("x_adv",), norm="linf", weight=4),
    Call("fastat.l2_step_", _STEP, judge.step, ("x_adv",), norm="l2", weight=4),
    Call("fastat.l1_step_", _STEP + " sparsity?", judge.step, ("x_adv",), norm="l1", weight=4),
    Call("fastat.project_", "x:image x_adv:iterate eps:radius norm lower? upper?", judge.step, ("x_adv",), weight=4),
    Call(
        "fastat.random_start",
        "x:image eps:radius norm seed? sample_ids?:ids lower? upper? draw?",
        judge.start,
        draws=True,
        weight=3,
    ),
    Call("fastat.attack_loss", "logits y:labels kind?", judge.loss_and_gradient, weight=3),
    Call("fastat.attack_loss", "logits y:labels kind:targeted targets:labels", judge.loss_and_gradient),
    Call("fastat.attack_loss", "logits y:labels kind:divergence reference:logits", judge.loss_and_gradient),
    Call("fastat.attack_loss", "logits y:shares kind:bce", judge.loss_and_gradient),
    Call(
        "fastat.best_",
        "_x:image best_x:iterate best_loss:of_samples x_adv:like_x loss:of_samples",
        judge.nothing,
        ("best_x", "best_loss"),
        weight=2,
    ),
    # objectives
    Call("fastat.holistic_weights", "losses" + _BUDGETS, judge.shares),
    Call("fastat.holistic_loss", "losses" + _BUDGETS, judge.within_losses),
    Call("fastat.holistic_cross_entropy", "logits y:labels" + _BUDGETS, judge.one_loss),
    Call("fastat.certificate", "n:points r:number", judge.confidence),
    Call("fastat.benign_weights", "logits y:labels gamma?:number", judge.weights),
    Call("fastat.discrimination_loss", "features y:labels tau?:positive positives?", judge.one_loss),
    Call(
        "fastat.benign_loss",
        "logits features y:labels gamma?:number beta?:number tau?:positive positives? losses?:weighted",
        judge.one_loss,
    ),
    Call(
        "fastat.trades_loss",
        "logits logits_adv:logits y:labels beta?:number label_smoothing?:share reduction?",
        judge.losses,
    ),
    Call("fastat.mart_loss", "logits logits_adv:logits y:labels lam?:number reduction?", judge.losses),
    Call(
        "fastat.gradient_misalignment",
        "x:image y:labels model eps:radius seed? sample_ids?:ids lower?:low_number upper?:high_number",
        judge.misalignment,
        draws=True,
    ),
    # attacks
    Call(
        "fastat.fgsm",
        _ATTACKED + " step_size? noise?:number clip?:flag" + _OF_ATTACKS,
        judge.attack,
        draws=True,
        weight=2,
    ),
    Call(
        "fastat.pgd",
        _ATTACKED + " steps:count0 step_size?:steps_of_pgd won? start?:iterate random_start?:flag restarts?:count keep?"
        " early_stop?:flag momentum?:number nesterov?:flag samples?:count diversity?:share" + _OF_ATTACKS,
        judge.attack,
        draws=True,
        weight=3,
    ),
    Call("fastat.pgd", "x:grid y:labels model eps norm steps:count0 quantize:levels keep?", judge.attack, draws=True),
    # evaluation
    Call(
        "fastat.evaluate",
        "_x:image _y:labels model data:pair eps:number attacks" + _OF_SETS + " device? examples?:flag",
        judge.accuracies,
    ),
    Call("fastat.evaluation.robust_accuracy_curve", _SET + " eps_list attack?" + _OF_SETS, judge.curve),
    Call("fastat.evaluation.adversarial_losses", _SET + " eps:number attack" + _OF_SETS, judge.losses_of_images),
    Call("fastat.evaluation.predict", "x:image model", judge.classes),
    Call("fastat.evaluation.wilson_interval", "accuracy:share n:points", judge.interval),
    # protocols
    Call(
        "protocol", "_protocol x:image y:labels model seed? sample_ids?:ids", judge.of_a_network, draws=True, weight=2
    ),
    Call("protocol.outcome", "_protocol x:image y:labels model seed? sample_ids?:ids", judge.outcome, draws=True),
    Call("fastat.protocol", "name:protocol_name eps:number norm? bounds:number_bounds awp?:number", judge.described),
    Call("functools.partial(fastat.protocol, 'pgd-at')", _OPTIONS + " label_smoothing?:share", judge.described),
    Call("functools.partial(fastat.protocol, 'trades')", _OPTIONS + " beta?:number", judge.described),
    Call("functools.partial(fastat.protocol, 'hr')", _OPTIONS + " alpha?:share r?:number order?", judge.described),
    Call(
        "functools.partial(fastat.protocol, 'bat')",
        _OPTIONS + " gamma?:number tau?:positive positives?",
        judge.described,
    ),
    Call("fastat.protocols.Attack", "kind:attack_kind replays?:count " + _OPTIONS, judge.described),
    # models
    Call("fastat.Normalized(model, mean, std)", "_model:model _mean:mean _std:std x:image", judge.anything),
    Call(
        "(lambda x: fastat.with_features(model, where)(x.clone()))",  # where the model works in place, it is asked to
        "_model:model _where x:image",
        judge.logits_and_features,
    ),
)
"""Every public function that takes tensors or numbers."""


def drawn(calls: Sequence[Call], seed: int, number: int) -> tuple[Call, Case]:
    """The call of that number."""
    rng = random.Random(f"{seed} {number}")
    call = rng.choices(calls, [one.weight for one in calls])[0]
    return call, call.case(rng, hostile=rng.random() < 0.5)
