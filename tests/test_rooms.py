"""The house: what the rooms of fastat/ offer, what they import, and what an import costs."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fastat

ROOT = Path(fastat.__file__).parent
ROOMS = sorted(init.parent.name for init in ROOT.glob("*/__init__.py"))
FILES = sorted(ROOT.rglob("*.py"))
USERS = [*FILES, *(file for name in ("bench", "experiments") for file in (ROOT.parent / name).rglob("*.py"))]


def imports(text: str, package: str) -> Iterator[str]:
    """The dotted names of what a text of this package imports of fastat, inside functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            found = [".".join(filter(None, [*parent, node.module, one.name])) for one in node.names]
        else:
            continue
        yield from (name for name in found if name.startswith("fastat."))


def is_offered(name: str) -> bool:
    """Whether others may import ``fastat.room.something``: a name the room offers, or a name in a module it offers."""
    room, *rest = name.split(".")[1:]
    if not rest:
        return room in (*ROOMS, *fastat.__all__)
    package = importlib.import_module(f"fastat.{room}")
    if any(part.startswith("_") for part in rest) or rest[0] not in offered(package):
        return False
    return len(rest) == 1 or isinstance(getattr(package, rest[0]), ModuleType)


def offered(package: ModuleType) -> list[str]:
    experiments = getattr(package, "EXPERIMENTS", {})
    return [*package.__all__, *(name.replace("-", "_") for name in experiments)]


def trespasses(text: str, package: str) -> list[str]:
    own = ".".join(package.split(".")[:2])
    return [name for name in imports(text, package) if not f"{name}.".startswith(f"{own}.") and not is_offered(name)]


def test_nothing_but_rooms_stands_in_the_package():
    assert {entry.name for entry in ROOT.iterdir() if entry.is_file()} == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_offers_names_that_are_there(room):
    package = importlib.import_module(f"fastat.{room}")
    assert package.__doc__ and "\n\n" not in package.__doc__
    for name in package.__all__:
        assert hasattr(package, name) or importlib.import_module(f"fastat.{room}.{name}")


@pytest.mark.parametrize("file", USERS, ids=lambda file: str(file.relative_to(ROOT.parent)))
def test_only_what_a_room_offers_is_imported_from_outside(file):
    if file == ROOT / "__init__.py":
        return  # it says where the public names are
    assert trespasses(file.read_text(), ".".join(file.relative_to(ROOT.parent).parts[:-1])) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from ..models.preact import initialize", "import fastat.attacks.problem as problem",
        "from fastat.attacks.pgd import Work", "from fastat.data.augment import check_augment",
        "import fastat.kernels._C", "from fastat.kernels import _C", "from fastat.kernels.ops import _ops",
        "def f():\n    from fastat.graphs.replay import run",
    ],
)  # fmt: skip
def test_what_a_room_does_not_offer_is_seen(statement):
    assert trespasses(statement, "fastat.protocols") != []
    assert trespasses("from fastat.protocols.awp import _step; from . import awp", "fastat.protocols") == []
    assert trespasses("from fastat.kernels.ops import random_start; import fastat", "fastat.protocols") == []


def test_files_that_are_not_python_are_packed():
    packed = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    found = {file for name, kinds in packed.items() for kind in kinds for file in _folder(name).glob(kind)}
    assert found == {ROOT / "py.typed", *ROOT.rglob("templates/*")}


def _folder(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


def test_support_stays_small():
    assert len(list((ROOT / "support").glob("*.py"))) <= 6


def test_public_names_are_those_that_types_are_checked_for():
    (block, *_) = [node for node in ast.parse((ROOT / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    typed = {one.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for one in node.names}
    rooms = {name for name, module in typed.items() if module == "fastat"}
    assert rooms < set(ROOMS)
    assert sorted([*(typed.keys() - rooms), "__version__"]) == sorted(fastat.__all__)
    for name in typed.keys() - rooms:
        assert getattr(fastat, name) is getattr(importlib.import_module(typed[name]), name)


def test_unknown_names_are_refused_and_all_are_listed():
    for package, name in ((fastat, "pdg"), (fastat.theory, "cgro2")):
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute '{name}'"):
            getattr(package, name)
    assert {*fastat.__all__, "training", "theory"} <= set(dir(fastat))


def run_python(program: str, **options) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_the_package_is_found_beside_a_clone_of_its_name(tmp_path):
    """Python takes a folder without __init__.py for an empty package, unless the real one is on its path."""
    (tmp_path / "fastat" / "csrc").mkdir(parents=True)
    assert run_python("import fastat; print(fastat.__file__)", cwd=tmp_path) == str(ROOT / "__init__.py")


def test_threads_may_ask_for_names_at_once():
    """In a fresh process: a room's module and its parts must be locked in the same order by all."""
    run_python("""
import fastat, random, threading
start, wrong = threading.Barrier(12), []
def ask(seed):
    names = random.Random(seed).sample(fastat.__all__, len(fastat.__all__))
    start.wait()
    try:
        for name in names:
            getattr(fastat, name)
    except Exception as error:
        wrong.append(error)
threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert not wrong, wrong
""")


def test_experiments_are_found_in_the_theory_room():
    assert run_python("import fastat; print(fastat.theory.cgro.run.__name__, fastat.theory.random_features.run)")


def test_import_fastat_imports_nothing_and_its_names_what_they_need():
    slow = ("torch", "torchvision", "sklearn", "scipy", "matplotlib", "joblib", "torch._dynamo", "fastat.report")
    show = f"import sys; print(*[name for name in {slow!r} if name in sys.modules])"
    assert run_python(f"import fastat; {show}") == ""
    assert run_python(f"from fastat import *; {show}") == "torch"
    assert run_python(f"import fastat.cli; {show}") == "torch"
