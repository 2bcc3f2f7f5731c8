"""Making one call and judging it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastat

from .case import DEFINITIONS, FILE, HEAD, Case
from .judge import Arguments, Rule
from .witness import Witness

_ALLOWED = (TypeError, ValueError, RuntimeError)
_LIBRARY = str(Path(fastat.__file__).parent)
_HERE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Violation:
    """A broken promise, and where in the library; the same of both is the same fault."""

    kind: str
    where: str


@dataclass(frozen=True)
class Verdict:
    """Of a call: "accepted", "refused", or "unmade" where its arguments cannot be made."""

    outcome: str
    violations: tuple[Violation, ...]


def namespace() -> dict[str, Any]:
    """What the lines of a case may refer to."""
    names: dict[str, Any] = {}
    exec(compile("\n".join([HEAD, *DEFINITIONS.values()]), FILE, "exec"), names)
    return names


def tried(
    case: Case, rule: Rule, writes: tuple[str, ...], draws: bool, norm: str | None, names: dict[str, Any]
) -> Verdict:
    """Makes the call, in a namespace of its own, and judges what came of it."""
    names = dict(names)
    torch.manual_seed(case.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for line in case.lines:
                exec(compile(f"{line.name} = {line.source}", FILE, "exec"), names)
            arguments = {line.name: names[line.name] for line in case.lines}
            witness = Witness(arguments, writes)
            before = {name: _copied(arguments[name]) for name in case.passed}
        except Exception:
            return Verdict("unmade", ())
        call = compile(case.call, FILE, "eval")
        may_draw = draws and ("seed" not in case.passed or arguments["seed"] is None)
        try:
            result = eval(call, names)
        except Exception as error:
            found = [*_of_exception(error), *(Violation(one, "") for one in witness.changes(True, may_draw))]
            return Verdict("refused", tuple(dict.fromkeys(found)))
        broken = [*witness.changes(False, may_draw)]
        try:
            broken += rule(Arguments(before, {name: arguments[name] for name in case.passed}, norm), result)
        except Exception as error:  # the rule cannot make sense of arguments that were accepted
            broken.append(f"accepted what cannot be judged: {type(error).__name__} in {_place(error)}")
        return Verdict("accepted", tuple(Violation(one, "") for one in dict.fromkeys(broken)))


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _of_exception(error: Exception) -> Iterator[Violation]:
    """An error of the library's must be of one of few types, and say something; a model's own must come through."""
    if _of_the_model(error):
        return
    cause = error.__cause__ or error.__context__
    while cause is not None:
        if type(cause).__name__ == "Own":
            yield Violation("replaced the model's own exception", _place(error))
        cause = cause.__cause__ or cause.__context__
    ours = type(error).__module__.startswith("fastat") and isinstance(error, _ALLOWED)
    if type(error) not in _ALLOWED and not ours:
        yield Violation(f"raised {type(error).__name__}", _place(error))
    elif not str(error).strip():
        yield Violation("raised without a message", _place(error))
    elif "INTERNAL ASSERT" in str(error):
        yield Violation("raised an internal error", _place(error))


def _of_the_model(error: Exception) -> bool:
    """Whether it was raised by a function of the case, or by a network of torch's, that the library called."""
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    names = names[names.index(FILE) + 1 :]
    last = max((i for i, name in enumerate(names) if name.startswith(_LIBRARY)), default=-1)
    return any(name == FILE or "torch/nn/modules" in name for name in names[last + 1 :])


def _place(error: Exception) -> str:
    """The innermost line of the library, or of the fuzzer, that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename.startswith((_LIBRARY, _HERE))] or frames
    last = next((frame for frame in reversed(inside) if frame.filename.startswith(_LIBRARY)), inside[-1])
    return f"{'/'.join(Path(last.filename).parts[-3:])}:{last.lineno} {last.name}"
