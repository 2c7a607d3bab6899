"""The one-way flow: a file imports only earlier rooms, no files import each other in a circle, and no name hides a library."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["schema", "answers", "envs", "data", "rewards", "metrics", "tasks", "models", "gtr", "training", "train", "bench"]


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports_in(text: str, modules: set[str]) -> set[str]:
    """The modules among `modules` that a file imports anywhere, in functions too. `from package import module` counts as that
    module, `from package import name` as the package's own file."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")) and node.args:
            name = node.args[0]
            assert isinstance(name, ast.Constant), f"line {node.lineno} imports a module whose name cannot be read here"
            found.add(str(name.value))
    return found & modules


def graph_of(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    files = {module_name(path, root): path for path in sorted((root / "vlrl").rglob("*.py"))}
    return {name: imports_in(path.read_text(encoding="utf-8"), set(files)) - {name} for name, path in files.items()}


@cache
def graph() -> dict[str, set[str]]:
    return graph_of(ROOT)


def late_imports(edges: dict[str, set[str]]) -> list[str]:
    """The imports of a later room."""
    place = {f"vlrl.{name}": i for i, name in enumerate(ORDER)}

    def room(module: str) -> int:
        return place[".".join(module.split(".")[:2])]

    package = {"vlrl"}  # its own file holds the version and imports nothing
    pairs = [(a, b) for a, some in edges.items() for b in some if not {a, b} & package]
    return [f"{a} imports {b}" for a, b in pairs if room(b) > room(a)]


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that can all reach each other (strongly connected components of two or more)."""
    reached = {start: closure(edges, start) for start in edges}
    found = []
    for name in edges:
        same = {other for other in reached[name] if name in reached[other]} | {name}
        if len(same) > 1 and same not in found:
            found.append(same)
    return found


def closure(edges: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in edges[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def test_every_file_has_a_room():
    assert {name.split(".")[1] for name in graph() if name != "vlrl"} <= set(ORDER)
    entries = {path.name for path in (ROOT / "vlrl").iterdir()} - {"__init__.py", "py.typed", "__pycache__"}
    assert len(entries) <= 12, sorted(entries)
    assert not graph()["vlrl"]


def test_files_import_only_earlier_rooms():
    assert late_imports(graph()) == []


def test_no_files_import_each_other_in_a_circle():
    assert circles(graph()) == []


def test_these_tests_see_imports_in_functions_circles_and_later_rooms(tmp_path):
    files = {
        "__init__": "",
        "schema": "def f():\n    from vlrl import train\n",
        "train": "import vlrl.data.a\n",
        "data/__init__": "from vlrl.data.a import x\n",
        "data/a": "def g():\n    from vlrl.data import b\n",
        "data/b": "def h():\n    import importlib\n    importlib.import_module('vlrl.data.a')\n",
    }
    for name, text in files.items():
        path = tmp_path / "vlrl" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    edges = graph_of(tmp_path)
    assert edges["vlrl.schema"] == {"vlrl.train"}
    assert late_imports(edges) == ["vlrl.schema imports vlrl.train"]
    assert circles(edges) == [{"vlrl.data.a", "vlrl.data.b"}]
    with pytest.raises(AssertionError, match="line 1 imports a module whose name cannot be read"):
        imports_in("importlib.import_module(name)", set())


def test_a_task_is_known_by_name_in_its_own_room_alone():
    """Other rooms ask the task, so that a user's task can do what a built-in one does."""
    lists = re.compile(r"CARD_TASKS|TASKS_IN_SCHEMA|isinstance\([a-z_.]+, (Points|Blackjack|NumberLine)Game")
    found = []
    for path in sorted((ROOT / "vlrl").rglob("*.py")):
        place = path.relative_to(ROOT / "vlrl").parts[0]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if place not in ("tasks", "envs") and lists.search(line):
                found.append(f"{path}:{number}: {line.strip()}")
    assert not found


def test_rewards_do_not_import_torch():
    code = "import vlrl.rewards, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_module_shadows_a_library_or_the_standard_library():
    ours = {path.stem for path in (ROOT / "vlrl").glob("*.py")} | {p.name for p in (ROOT / "vlrl").iterdir() if p.is_dir()}
    taken = set(metadata.packages_distributions()) - {"vlrl", "tests", "__pycache__"}
    # `train.py` drops its own folder from the path, so a clash could only matter for the standard library.
    assert not (ours - {"__init__"}) & set(sys.stdlib_module_names)
    assert not (ours & {"torch", "trl", "datasets", "accelerate", "peft", "evaluate"}), ours & taken


def test_files_stay_readable():
    long = {
        str(p.relative_to(ROOT)): n
        for p in ROOT.glob("**/*.py")
        if ".venv" not in p.parts and (n := len(p.read_text().splitlines())) > 420
    }
    assert not long


SHARED = {
    "main", "train",  # what a command runs
    "TASK", "prompt", "oracle", "sft_target", "check", "metric", "completion",  # one of each in every task
    "abstains", "choice", "is_sure", "leaks", "options", "yes_no",  # two judges of AutoTrust behind one interface; a reward
}  # fmt: skip
"""Public names that several files may define: they play the same part in each."""


def test_a_public_name_means_one_thing():
    places = {}
    for path in sorted((ROOT / "vlrl").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in names:
                if not name.startswith("_"):
                    places.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED} == {}
