"""The house: what the rooms of fastat/ offer, what they import, and what an import costs."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastat

ROOT = Path(fastat.__file__).parent
ROOMS = sorted(init.parent.name for init in ROOT.glob("*/__init__.py"))
FILES = sorted(ROOT.rglob("*.py"))
COMPILED = {"_C", "_cuda"}


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every ``from fastat... import name``, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastat":
            yield from ((node.module, one.name) for one in node.names)


def test_nothing_but_rooms_stands_in_the_package():
    assert {entry.name for entry in ROOT.iterdir() if entry.is_file()} == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_offers_names_that_are_there(room):
    package = importlib.import_module(f"fastat.{room}")
    assert package.__doc__ and "\n\n" not in package.__doc__
    assert package.__all__ == sorted(package.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    for name in package.__all__:
        assert hasattr(package, name) or importlib.import_module(f"fastat.{room}.{name}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_only_what_a_room_offers_is_imported_from_outside(file):
    own = file.relative_to(ROOT).parts[0]
    for module, name in imports(file):
        _, *path = module.split(".")
        if not path:
            assert name in (*ROOMS, "ops", "reference"), f"from {module} import {name}"
        elif path[0] != own and file.parent != ROOT:
            offered = importlib.import_module(f"fastat.{path[0]}").__all__
            assert (name if len(path) == 1 else path[1]) in offered, f"from {module} import {name}"
            assert not name.startswith("_"), f"from {module} import {name}"


def test_the_kernels_alone_know_the_compiled_modules():
    elsewhere = [file for file in FILES if file.parent.name != "kernels"]
    assert not [file for file in elsewhere if COMPILED & {name for _, name in imports(file)}]


def test_support_stays_small():
    assert len(list((ROOT / "support").glob("*.py"))) <= 6


def test_public_names_are_those_that_types_are_checked_for():
    (block,) = [node for node in ast.parse((ROOT / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    typed = {one.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for one in node.names}
    assert sorted([*typed, "__version__"]) == sorted(fastat.__all__)
    for name, module in typed.items():
        place = importlib.import_module(module)
        assert getattr(fastat, name) is getattr(place, name)


def test_unknown_names_are_refused_and_all_are_listed():
    with pytest.raises(AttributeError, match="module 'fastat' has no attribute 'pdg'"):
        fastat.pdg  # noqa: B018
    assert set(fastat.__all__) <= set(dir(fastat))


def loaded_by(statement: str, *modules: str) -> list[str]:
    """Which of the modules a fresh process has loaded after the statement."""
    program = f"import sys; {statement}; print(*[name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_package_is_found_beside_a_clone_of_its_name(tmp_path):
    """Python takes a folder without __init__.py for an empty package, unless the real one is on its path."""
    (tmp_path / "fastat" / "csrc").mkdir(parents=True)
    program = "import fastat; print(fastat.__file__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == str(ROOT / "__init__.py")


def test_import_fastat_imports_nothing_and_its_names_what_they_need():
    slow = ("torchvision", "sklearn", "scipy", "matplotlib", "joblib", "rich", "torch._dynamo")
    assert loaded_by("import fastat", "torch", *slow) == []
    assert loaded_by("import fastat; fastat.pgd", "torch", *slow) == ["torch"]
    assert loaded_by("import fastat.cli", "torch", *slow, "fastat.report", "fastat.theory") == ["torch", "rich"]
