"""Arguments that nobody should pass, as text, for any argument of a case."""

from __future__ import annotations

import random
from dataclasses import replace

from .case import Case, Line
from .valid import MODELS, TENSORS

OBJECTS = (
    "None", "'text'", "''", "b'bytes'", "[]", "[1, 2]", "[[0.1]]", "{}", "{'a': 1}", "object()", "1j", "True", "False",
    "np.float32(math.nan)", "np.array(0.1)", "np.array([0.1, 0.2])", "np.zeros((2, 3))", "np.array(['a'])",
    "np.int64(-1)", "np.array(None)", "Fraction(-1, 3)", "Fraction(10**400)", "Decimal('0.1')", "Decimal('NaN')",
    "range(3)", "(1,)", "()", "(1, 2, 3)", "{1, 2}", "float", "lambda *_: None", "iter([1])", "torch.float32",
    "(None, None)", "[None]", "...", "(0.9, 0.1)", "(math.nan, 1)", "('a', 'b')", "(10**400, 1)", "(0, 10**400)",
    "[10**400]", "[torch.tensor(0.5)]", "(0, [1])", "(torch.zeros(2, 2, 2), 1)", "slice(None)",
)  # fmt: skip
NUMBERS = (
    "math.nan", "math.inf", "-math.inf", "-0.0", "1e39", "1e-40", "1e300", "5e-324", "10**400", "-(10**400)", "-1",
    "-0.5", "0", "1", "2**31", "2**63", "2**64", "2**62", "1.5", "torch.tensor(math.nan)", "torch.tensor([0.1, 0.2])",
    "torch.tensor(-1.0)", "torch.tensor(3)", "torch.tensor(0.1, requires_grad=True)", "torch.tensor(math.inf)",
    "torch.empty(0)", "torch.tensor(0.1, device='meta')", "torch.tensor(True)", "torch.tensor(1j)",
    "nn.Parameter(torch.tensor(0.1))", "torch.tensor([[0.1]])", "torch.tensor(1e-40)",
    "torch.tensor(1e300, dtype=torch.float64)",
)  # fmt: skip
COUNTS = tuple(one for one in NUMBERS if one not in ("2**31", "2**62"))
"""Counts of steps and the like: those left out are a right to wait for."""

TENSOR_CHANGES = (
    "({0}).to('meta')", "({0}).to_sparse()", "({0}).to(torch.int64)", "({0}).to(torch.int8)", "({0}).bool()",
    "({0}).to(torch.complex64)", "({0}).to(torch.float8_e4m3fn)", "({0}).half()", "({0}).double()", "({0})[:0]",
    "({0})[..., :0]", "({0}).flatten()", "({0}).sum()", "torch.cat([{0}, {0}])", "({0})[None]",
    "({0})[..., None, None]", "({0})[:1]", "({0}).mT", "torch.full_like({0}, math.nan)",
    "torch.full_like({0}, math.inf)", "torch.full_like({0}, -math.inf)", "({0}) * 0 + 1e30", "({0}) * 1e-41", "-({0})",
    "({0}) + 3", "({0}) * 1e6", "torch.quantize_per_tensor(({0}).float(), 0.1, 0, torch.quint8)",
    "({0}).numpy(force=True)", "({0}).tolist()", "torch.nested.nested_tensor([({0}).detach()])",
    "({0}).index_fill(0, torch.tensor([0]), math.nan)", "({0}).index_fill(-1, torch.tensor([0]), math.inf)",
    "({0})[:1].expand(({0}).shape)", "({0}).requires_grad_()", "({0}).expand(3, *({0}).shape)", "torch.zeros([1] * 20)",
    "torch.tensor([])", "torch.tensor(0.5)", "({0}).to(torch.uint16)", "({0}).to_sparse_csr()", "torch.zeros(0, 2**40)",
    "({0}) - 2**40", "({0}).to_mkldnn()", "({0}).conj()", "torch._neg_view(({0}).dequantize())",
)  # fmt: skip
MODEL_CHANGES = (
    "lambda x: None", "lambda x: 3", "lambda x: x.sum()", "lambda x: x.flatten(1) * math.nan",
    "lambda x: x.flatten(1)[:, :2].detach()", "lambda x: x.flatten(1)[:1]", "lambda x: x.flatten(1).long()",
    "lambda x: x.mul_(2).flatten(1)", "fail", "lambda x: x.flatten(1).to_sparse()", "lambda x: x.flatten(1) + 1j",
    "lambda x: x.flatten(1).argmax(1)", "lambda x: [x]", "nn.Identity()", "lambda: 1", "lambda x: x.flatten(1)[:, :0]",
    "nn.Linear", "lambda x: x.new_zeros(len(x), classes, requires_grad=True)", "lambda x: x.flatten(1).to('meta')",
    "lambda x: {'logits': None}", "lambda x: x", "nn.Sequential(nn.Flatten(), nn.Linear(3, 2))",
    "lambda x: x.flatten(1) * 1e30", "lambda x: x.flatten(1) / 0", "lambda x: x.flatten(1).log()",
    "lambda x: x.flatten(1)[:, :1].bool()", "lambda x: x.flatten(1).clone().fill_(3)", "lambda x: x[None]",
    "lambda x: (x.flatten(1), x.flatten(1))", "lambda x: x.data.add_(1).flatten(1)",
)  # fmt: skip


def made_hostile(case: Case, kinds: dict[str, str], rng: random.Random) -> Case:
    """The case with one argument replaced, or several, or missing, or with one too many. ``kinds`` are those of the
    arguments by name."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.random()
        names = [one.name for one in case.lines if one.name in kinds]
        if change < 0.03 and case.passed:
            missing = rng.choice(case.passed)
            case = replace(case, passed=tuple(one for one in case.passed if one != missing))
        elif change < 0.05 and "unknown" not in case.passed:
            case = replace(case, lines=(*case.lines, Line("unknown", "1", "1")), passed=(*case.passed, "unknown"))
        elif change < 0.12:
            case = _overlapping(case, [one for one in names if kinds[one] in TENSORS], rng)
        elif names:
            name = rng.choice(names)
            (line,) = (one for one in case.lines if one.name == name)
            case = case.with_source(name, _replaced(line.source, kinds[name], rng))
    return case


def _replaced(source: str, kind: str, rng: random.Random) -> str:
    choice = rng.random()
    if kind in TENSORS and choice < 0.75:
        return rng.choice(TENSOR_CHANGES).format(source)
    if kind in MODELS and choice < 0.8:
        return rng.choice(MODEL_CHANGES)
    if choice < 0.5 and kind not in TENSORS:
        return rng.choice(COUNTS if kind.startswith("count") else NUMBERS)
    return rng.choice((*OBJECTS, *COUNTS))


def _overlapping(case: Case, names: list[str], rng: random.Random) -> Case:
    """Two tensors that lie on one another: the same, a view of it, or one that begins an element later."""
    if len(names) < 2:
        return case
    first, second = sorted(rng.sample(range(len(names)), 2))
    one, other = names[first], names[second]
    how = rng.choice(("{0}", "{0}.detach()", "{0}.view_as({0})", "pool"))
    if how != "pool":
        return case.with_source(other, how.format(one))
    line = next(line for line in case.lines if line.name == one)
    pool = Line("pool", f"torch.cat([({line.source}).flatten(), ({line.source}).flatten()])", "None")
    at = case.lines.index(line)
    case = replace(case, lines=(*case.lines[:at], Line("like", line.source, line.plain), pool, *case.lines[at:]))
    case = case.with_source(one, "pool[: like.numel()].view(like.shape)")
    return case.with_source(other, "pool[1 : 1 + like.numel()].view(like.shape)")
