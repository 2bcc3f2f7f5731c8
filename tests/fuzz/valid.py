"""Valid arguments by kind, as text: the plain one first, then odd ones that must do as well.

The lines of a case come after those of its world, ``shape`` (of the inputs), ``dtype``, ``classes``, ``low`` and
``high`` (the box), which they refer to by name, so that a smaller shape makes all tensors smaller. ``x`` stands before
what is like it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

WORLDS = {
    "shape": (
        *("(2, 3)", "(1, 4)", "(3, 2, 2)", "(2, 3, 4, 4)", "(5, 1)", "(2, 1, 3, 5)", "(1, 1)", "(3, 17)") * 3,
        "(4, 4)", "(0, 3)", "(2, 2, 1, 2, 2)", "(6,)",
    ),
    "dtype": ("torch.float32", "torch.float32", "torch.float64", "torch.float16", "torch.bfloat16"),
    "classes": ("4", "2", "5", "10"),
    "low": ("0.0", "0.0", "0.1", "-1.0", "-3.0"),
    "high": ("1.0", "1.0", "0.9", "1.5"),
}  # fmt: skip
NORMS = ("linf", "l2", "l1")


@dataclass(frozen=True)
class World:
    """What the arguments of a case have in common."""

    sources: dict[str, str]
    norm: str

    @staticmethod
    def drawn(rng: random.Random, norm: str | None) -> World:
        return World(
            {name: rng.choice(sources) for name, sources in WORLDS.items()}, norm or rng.choice(NORMS)
        )  # fmt: skip

    def has(self, condition: str) -> bool:
        """Whether it has that norm, or inputs of that many dimensions ("4d")."""
        return condition == self.norm or condition == f"{len(eval(self.sources['shape']))}d"


_LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), classes)).to(dtype)"
_DEEP = "nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), 4), nn.ReLU(), nn.Linear(4, classes)).to(dtype)"
_SIZES = (
    "0.1", "8 / 255", "0", "0.0", "1", "2.5", "1e-3", "1e-30", "np.float32(0.1)", "np.float64(0.25)", "Fraction(1, 10)",
    "torch.tensor(0.1)", "torch.rand(shape[:1])", "torch.rand(shape[:1]).view(-1, *[1] * (len(shape) - 1))",
    "torch.full(shape[:1], 0.1, dtype=torch.float64)", "torch.rand(shape[:1]).half()", ("linf", "torch.rand(shape)"),
    ("linf", "torch.rand(shape[1:])"), ("linf", "torch.rand(shape).to(dtype) * 1e-3"), ("4d", "np.int64(1)"),
)  # fmt: skip
_SMALL = ("0.1", "0", "1", "0.5", "np.float32(0.25)", "Fraction(1, 3)", "1e-40", "5")

KINDS: dict[str, tuple[str | tuple[str, str], ...]] = {
    # tensors
    "image": (
        "(low + (high - low) * torch.rand(shape)).to(dtype)",
        "torch.full(shape, low, dtype=dtype)",
        "torch.full(shape, high, dtype=dtype)",
        "(low + (high - low) * torch.rand(shape).round()).clamp(low, high).to(dtype)",
    ),
    "iterate": (
        "x.detach().clone()",
        "(x.detach() + 0.05 * torch.randn(shape)).to(dtype)",
        "torch.rand(shape).to(dtype)",
    ),
    "like_x": (
        "torch.randn(shape).to(dtype)",
        "torch.zeros(shape, dtype=dtype)",
        "(1e-6 * torch.randn(shape)).to(dtype)",
        "torch.randn(shape).to(dtype).relu()",
        "torch.full(shape, 1e30).to(dtype)",
    ),
    "logits": (
        "torch.randn(shape[0], classes).to(dtype)",
        "(100 * torch.randn(shape[0], classes)).to(dtype)",
        "torch.zeros(shape[0], classes, dtype=dtype)",
        "torch.randn(shape[0], classes).to(dtype).round()",
        "(1e-3 * torch.randn(shape[0], classes)).to(dtype)",
    ),
    "features": (
        "torch.randn(shape[0], 3).to(dtype)",
        "torch.zeros(shape[0], 3, dtype=dtype)",
        "torch.randn(shape[0], 1).to(dtype)",
        "(1e-3 * torch.randn(shape[0], 9)).to(dtype)",
    ),
    "losses": (
        "torch.rand(shape[0] + 1)",
        "torch.randn(shape[0] + 1, dtype=torch.float64)",
        "torch.zeros(shape[0] + 1)",
        "1e4 * torch.rand(shape[0] + 1)",
        "1e-30 * torch.rand(shape[0] + 1)",
        "torch.tensor([0.5])",
    ),
    "weighted": ("None", "torch.rand(shape[0]).to(dtype)", "torch.rand(shape[0])"),
    "of_samples": (
        "torch.rand(shape[0], dtype=torch.promote_types(dtype, torch.float32))",
        "torch.full(shape[:1], -math.inf, dtype=torch.promote_types(dtype, torch.float32))",
    ),
    "shares": (
        "torch.rand(shape[0], classes)",
        "torch.zeros(shape[0], classes)",
        "torch.eye(classes)[torch.zeros(shape[0]).long()]",
    ),
    "labels": (
        "torch.randint(classes, shape[:1])",
        "torch.randint(classes, shape[:1], dtype=torch.int32)",
        "torch.zeros(shape[0], dtype=torch.uint8)",
        "torch.full(shape[:1], classes - 1)",
    ),
    "ids": ("torch.arange(shape[0])", "torch.arange(shape[0]) * 2**40", "torch.randint(-9, 9, shape[:1])"),
    "mask": (
        "torch.rand(shape) > 0.5",
        "torch.ones(shape)",
        "torch.zeros(shape, dtype=torch.bool)",
        "torch.rand(shape[1:]) > 0.5",
    ),
    # numbers
    "step_size": _SIZES,
    "radius": (*_SIZES, "math.inf"),
    "eps": _SIZES,
    "steps_of_pgd": ("0.1", "None", "lambda step: 0.1 / (step + 1)", *_SIZES),
    "number": _SMALL,
    "share": ("0.1", "0", "0.5", "0.99", "np.float32(0.25)", "Fraction(1, 3)", "1e-40"),
    "budget": ("0.1", "0", "0.5", "0.99", "torch.tensor(0.1)", "torch.tensor(0.3, dtype=torch.float64)", "1e-30"),
    "sparsity": ("0.5", "1", "0.05", "1e-9", "Fraction(1, 3)"),
    "positive": ("0.1", "1", "0.5", "10", "np.float32(0.25)", "1e-3"),
    "count": ("1", "2", "3", "np.int64(2)"),
    "count0": ("1", "0", "2", "3", "np.int64(2)"),
    "points": ("3", "1", "100", "10**9", "2**62"),
    "draw": ("0", "1", "2**32 - 1", "np.int64(7)"),
    "lower": ("low", "low", "None", "-1", "torch.full(shape[1:], low)", "torch.full(shape[:1], low)"),
    "upper": (
        "high",
        "high",
        "None",
        "2",
        "torch.full(shape[1:], high)",
        "torch.full(shape, high, dtype=torch.float64)",
    ),
    "low": ("low",),
    "high": ("high",),
    "low_number": ("low", "None", "-1"),
    "high_number": ("high", "None", "2"),
    "bounds": (
        "(low, high)",
        "None",
        "(low, None)",
        "[None, high]",
        "(torch.full(shape[1:], low), high)",
        "(low, torch.full(shape, high))",
        "(low - 1, high + 1)",
    ),
    "number_bounds": ("(low, high)", "None", "(low, None)", "[None, high]", "(low - 1, high + 1)"),
    "seed": ("3", "None", "torch.tensor(5)", "-1", "2**63", "np.int64(5)", "2**200"),
    "seed_number": ("3", "0", "-1", "2**63", "np.int64(5)"),
    "eps_list": (
        "[0.0, 0.1]",
        "(0.3, 0.1, 0)",
        "[]",
        "np.linspace(0, 0.2, 3)",
        "[0.1, 0.1]",
        "torch.tensor([0.0, 0.1])",
    ),
    # words and flags
    "order": ("'hd'", "'hr'"),
    "positives": ("'outside'", "'inside'"),
    "reduction": ("'mean'", "'none'"),
    "kind": ("'ce'", "'margin'", "'log_odds'"),
    "targeted": ("'dlr_targeted'",),
    "divergence": ("'kl'",),
    "bce": ("'bce'",),
    "grid_bounds": ("(0, 1)", "(0.0, 1.0)"),
    "loss": (
        "'ce'",
        "'margin'",
        "'dlr'",
        "'kl'",
        "'log_odds'",
        "lambda output, y: nn.functional.cross_entropy(output, y)",
        "lambda output, y: output.sum(1)",
    ),
    "won": (
        "None",
        "lambda output, y: torch.ones(len(output), dtype=torch.bool)",
        "lambda output, y: output.argmax(1) != y",
    ),
    "keep": ("'last'", "'best'"),
    "flag": ("False", "True"),
    "graph": ("False", "'auto'"),
    "inputs": ("()", "{}", "[]"),
    "levels": ("255",),
    "grid": ("(torch.randint(256, shape) / 255).to(dtype)",),
    "normalization": ("None", "(0.5, 0.25)", "([0.5], [0.25])"),
    "attack": ("'pgd-2'", "'fgsm'", "'pgd-1x2'"),
    "attacks": ("['fgsm']", "['pgd-2']", "{'mine': fastat.fgsm}", "[functools.partial(fastat.pgd, steps=1)]", "[]"),
    "device": ("None", "'cpu'", "torch.device('cpu')"),
    "pair": ("(x, y)", "[(x, y)]", "torch.utils.data.TensorDataset(x, y)", "(x.float().numpy(), y.numpy())"),
    "where": ("None", "'1'", "lambda model, x: (model(x), x.flatten(1))"),
    "attack_kind": ("'pgd'", "'pgd-kl'", "'fgsm'", "'rs-fgsm'", "'n-fgsm'", "'none'", "'free'"),
    "protocol_name": (
        "'pgd-at'",
        "'standard'",
        "'fgsm-at'",
        "'rs-fgsm'",
        "'n-fgsm'",
        "'gradalign'",
        "'trades'",
        "'mart'",
        "'hr'",
        "'bat'",
        "'free'",
    ),
    "protocol": (
        "fastat.protocol('fgsm-at', eps=0.1, bounds=(low, high))",
        "fastat.protocol('pgd-at', eps=0.1, steps=2, bounds=(low, high))",
        "fastat.protocol('trades', eps=0.1, steps=1, bounds=(low, high))",
        "fastat.protocol('mart', eps=0.1, steps=1, bounds=(low, high))",
        "fastat.protocol('hr', eps=0.1, steps=1, bounds=(low, high))",
        "fastat.protocol('bat', eps=0.1, steps=1, bounds=(low, high))",
        "fastat.protocol('gradalign', eps=0.1, bounds=None)",
        "fastat.protocol('n-fgsm', eps=0.1, mode='eval', bounds=(low, high))",
        "fastat.protocol('standard', eps=0, bounds=(low, high))",
        "fastat.protocols.Protocol(functools.partial(fastat.pgd, steps=1, bounds=None), 'trades', 'benign')",
    ),
    "mean": ("0.5", "[0.5]", "torch.full(shape[1:2], 0.5)", "0"),
    "std": ("0.25", "[0.25]", "torch.full(shape[1:2], 0.25)", "1"),
    # networks
    "model": (
        _LINEAR,
        _DEEP,
        _DEEP + ".eval()",
        _LINEAR + ".requires_grad_(False)",
        "nn.Sequential(nn.Flatten(), nn.BatchNorm1d(math.prod(shape[1:])), nn.Linear(math.prod(shape[1:]), classes))"
        ".to(dtype).eval()",
        "nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(math.prod(shape[1:]), classes)).to(dtype)",
        "lambda x: x.flatten(1).mean(1, True) * torch.arange(classes).to(x.dtype)",
        "lambda x: {'logits': x.flatten(1).mean(1, True) * torch.arange(classes).to(x.dtype)}",
        "lambda x: Output(x.flatten(1).mean(1, True) * torch.arange(classes).to(x.dtype))",
        "nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), classes), nn.Softmax(1)).to(dtype)",
        "nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), 1)).to(dtype)",
        (
            "4d",
            "nn.Sequential(nn.Conv2d(shape[1], classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(dtype)",
        ),
    ),
}
"""By kind; a pair is an argument for worlds that meet its condition."""

TENSORS = frozenset(
    "image iterate like_x logits features losses weighted of_samples labels shares ids mask grid".split()  # noqa: SIM905
)  # fmt: skip
MODELS = frozenset(["model"])

ODD_TENSORS = (
    "({0}).transpose(0, -1).contiguous().transpose(0, -1)",
    "torch.cat([{0}, {0}])[len({0}):]",
    "torch.stack([{0}, {0}], -1)[..., 0]",
    "torch.cat([torch.zeros(3).to(({0}).dtype), ({0}).flatten()])[3:].view(({0}).shape)",
    "({0}).as_subclass(Mine)",
    "torch.inference_mode()(lambda: ({0}).clone())()",
    "({0})[:1].expand(({0}).shape)",
)
"""The same numbers, or as good ones, otherwise in memory."""
ODD_FLOATS = ("({0}).requires_grad_()", "nn.Parameter({0})", "(({0}).clone().requires_grad_() * 1)")
ODD_IMAGES = ("({0}).contiguous(memory_format=torch.channels_last)",)
_WHOLE = frozenset(["labels", "ids", "mask"])


def source_of(kind: str, rng: random.Random, world: World, odd: bool = True) -> str:
    """A valid argument; the plain one unless it may be odd."""
    known = [
        one if isinstance(one, str) else one[1] for one in KINDS[kind] if isinstance(one, str) or world.has(one[0])
    ]
    source = rng.choice(known) if odd and rng.random() < 0.6 else known[0]
    if kind not in TENSORS or source == "None" or not odd or rng.random() < 0.75:
        return source
    changes = ODD_TENSORS + (() if kind in _WHOLE else ODD_FLOATS)
    if kind in ("image", "iterate", "like_x", "grid") and world.has("4d"):
        changes += ODD_IMAGES
    return rng.choice(changes).format(source)
