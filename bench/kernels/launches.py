"""How the CUDA kernels are launched, read from csrc/cuda: the table of blocks cannot drift from the code.

Grid and block are the text between ``<<<`` and ``>>>`` of the launch; the conditions that choose a kernel are quoted
from the source and looked up there. Both are evaluated here for inputs of any size.
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

from bench.kernels.sass import MOST_SHARED_OF_A_BLOCK
from bench.reports.files import ROOT

CUDA = ROOT / "csrc/cuda"
KERNEL = re.compile(r"template <([^>]*)>\n__global__ void __launch_bounds__\((\w+)(?:, \w+)?\) (\w+)\(")
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}


@dataclass(frozen=True)
class Route:
    """One way an op takes: `launch` is the kernel as the source writes it, `kernel` what that means for float32.

    `condition` stands in the source, as ``if (condition)`` or before a ``?``; "" is what remains.
    """

    condition: str
    launch: str
    kernel: str
    values: Mapping[str, str] = field(default_factory=dict)  # what the source computes elsewhere


@dataclass(frozen=True)
class Op:
    """Its source file, and its routes in the order in which they are tried."""

    source: str
    routes: tuple[Route, ...]


def _l2(limit: int, threads: int, items: int) -> Route:
    return Route(
        f"count <= {limit}",
        "l2_step_in_registers<threads, items, true>",
        f"l2_step_in_registers<{threads}, {items}, true>",
    )


# For contiguous, aligned float32 with a gradient, one radius and one step size, and the outer loss of BAT.
STAGED = {"bytes": "a.n * 12", "shared": "bytes"}  # three floats per element
FITS = "bytes + static_cast<int64_t>(sizeof(typename BlockTeam<threads>::Storage)) + 64 <= most"
OPS = {
    "linf step": Op(
        "linf_step.cu",
        (Route("", "linf_step_kernel<T, width, true, false>", "linf_step_kernel<float, 4, true, false>"),),
    ),
    "l2 step": Op(
        "l2_step.cu",
        (
            *(_l2(128, 128, 1), _l2(256, 128, 2), _l2(512, 256, 2), _l2(768, 256, 3)),
            *(_l2(1536, 512, 3), _l2(2048, 512, 4), _l2(3072, 1024, 3)),
            Route(
                "",
                "l2_step_streamed<T, width, threads, true, by_element>",
                "l2_step_streamed<float, 4, 512, true, false>",
            ),
        ),
    ),
    "l1 step": Op(
        "l1_step.cu",
        (
            Route(FITS, "kernel", "l1_step_kernel<float, true, true, false>", STAGED),
            Route("", "l1_step_kernel<T, has_grad, false, by_element>", "l1_step_kernel<float, true, false, false>"),
        ),
    ),
    "linf start": Op(
        "random_start.cu",
        (Route("", "linf_start_kernel<T, vectors, by_element>", "linf_start_kernel<float, true, false>"),),
    ),
    "l2 start": Op(
        "random_start.cu",
        (
            Route(
                "", "ball_start_kernel<T, Norm::l2, vectors, by_element>", "ball_start_kernel<float, l2, true, false>"
            ),
        ),
    ),
    "attack loss": Op(
        "attack_loss.cu",
        (
            Route("a.classes <= 16", "loss_of_small_rows<T, 8>", "loss_of_small_rows<float, 8>"),
            Route("a.classes <= 1024", "loss_of_small_rows<T, 32>", "loss_of_small_rows<float, 32>"),
            Route("", "loss_of_large_rows<T, 256>", "loss_of_large_rows<float, 256>"),
        ),
    ),
    "HR weights": Op(
        "holistic.cu",
        (
            Route("a.n <= 256", "holistic_warp<T>", "holistic_warp<float>"),
            Route("a.n <= 4096", "holistic_block<T, 256>", "holistic_block<float, 256>"),
            Route("", "holistic_block<T, 512>", "holistic_block<float, 512>"),
        ),
    ),
    "BAT rows": Op(
        "contrast.cu",
        (
            Route("a.n <= 1024", "contrast_of_small_rows<C>", "contrast_of_small_rows<float>"),
            Route("", "contrast_of_large_rows<C>", "contrast_of_large_rows<float>"),
        ),
    ),
    "BAT gradient": Op(
        "contrast.cu",
        (Route("", "contrast_gradient_elements<C, false>", "contrast_gradient_elements<float, false>"),),
    ),
    "scale rows": Op("scale_rows.cu", (Route("", "scale_elements<T>", "scale_elements<float>"),)),
    "best": Op("best.cu", (Route("", "best_kernel<L, uint4>", "best_kernel<float, uint4>"),)),
}


@dataclass(frozen=True)
class Launch:
    """What runs for one input; `shared`: dynamic bytes per block."""

    kernel: str
    grid: int
    block: int
    shared: int


def launch_of(op: str, sizes: Mapping[str, int], storage: int = 0) -> Launch:
    """The launch of an op for arguments `a.<name>` of these sizes, on a device of compute capability 9.0.

    `storage`: bytes of static shared memory of the kernel, which the l1 step adds to those of its sample.
    """
    source = (CUDA / OPS[op].source).read_text()
    known = {"sizeof_storage": str(storage), "most": str(MOST_SHARED_OF_A_BLOCK)}
    for route in OPS[op].routes:
        names = {**dict(zip(_arguments(route.launch), _arguments(route.kernel), strict=False)), **known, **route.values}
        if not route.condition or evaluate(quoted(source, route.condition), source, names, sizes):
            grid, block, shared = configuration(source, route.launch)
            return Launch(route.kernel, *(evaluate(text, source, names, sizes) for text in (grid, block, shared)))
    raise AssertionError(f"no route of {op} is left")


def quoted(source: str, condition: str) -> str:
    """The condition, if the source has it, with what the size of a type is written as a name."""
    if f"({condition})" not in source and f"{condition} ?" not in source:
        raise SystemExit(f"the sources do not say {condition} any more: bench/kernels/launches.py is out of date")
    return re.sub(r"static_cast<int64_t>\(sizeof\(.*?\)\)", "sizeof_storage", condition)


def configuration(source: str, kernel: str) -> tuple[str, str, str]:
    """Grid, block and dynamic shared memory, as written in the one launch of a kernel."""
    found = re.findall(rf"(?<![\w.]){re.escape(kernel)}<<<(.*?)>>>", source)
    if len(found) != 1:
        raise SystemExit(f"{len(found)} launches of {kernel} in the sources: bench/kernels/launches.py is out of date")
    call = ast.parse(f"f({found[0]})", mode="eval").body
    assert isinstance(call, ast.Call)
    grid, block, shared, _ = (ast.unparse(argument) for argument in call.args)
    return grid, block, shared


def evaluate(text: str, source: str, names: Mapping[str, str], sizes: Mapping[str, int]) -> int:
    """An integer expression of C++; a name means what `names` says, else the constant the source defines."""
    return _value(ast.parse(text, mode="eval").body, source, names, SimpleNamespace(**sizes))


def _value(node: ast.expr, source: str, names: Mapping[str, str], a: SimpleNamespace) -> int:
    def value(inner: ast.expr) -> int:
        return _value(inner, source, names, a)

    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Attribute(value=ast.Name(id="a"), attr=name):
            return int(getattr(a, name))
        case ast.Name(id=name) if name in names:
            return evaluate(names[name], source, names, vars(a))
        case ast.Name(id=name):
            return evaluate(_constant(name, source), source, names, vars(a))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
            return OPERATORS[type(operator)](value(left), value(right))
        case ast.Compare(left=left, ops=[ast.LtE()], comparators=[right]):
            return int(value(left) <= value(right))
        case ast.Call(func=ast.Name(id="ceil_div"), args=[number, unit]):
            return -(-value(number) // value(unit))
    raise SystemExit(f"bench/kernels/launches.py cannot evaluate {ast.unparse(node)}")


def _arguments(kernel: str) -> list[str]:
    return re.sub(r"^[^<]*<?|>$", "", kernel).split(", ")


def block_size(kernel: str) -> int:
    """Threads per block of a compiled kernel, from the ``__launch_bounds__`` of the template it comes from."""
    for path in sorted(CUDA.glob("*.cu")):
        source = path.read_text()
        for parameters, bound, name in KERNEL.findall(source):
            if name == kernel.partition("<")[0]:
                written = [parameter.split()[-1] for parameter in parameters.split(", ")]
                return evaluate(bound, source, dict(zip(written, _arguments(kernel), strict=True)), {})
    raise SystemExit(f"the sources have no kernel {kernel}")


def _constant(name: str, source: str) -> str:
    """How the source defines a constant; several may share a declaration."""
    for declaration in re.findall(r"const(?:expr)? (?:int|int64_t) ([^;{}]*);", source):
        try:
            call = ast.parse(f"f({declaration})", mode="eval").body
        except SyntaxError:  # not arithmetic alone
            continue
        assert isinstance(call, ast.Call)
        for keyword in call.keywords:
            if keyword.arg == name:
                return ast.unparse(keyword.value)
    raise SystemExit(f"the sources do not define {name}: bench/kernels/launches.py is out of date")
