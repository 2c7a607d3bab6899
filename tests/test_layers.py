"""The one-way flow: every chapter imports only earlier ones, and no module of ours hides a library."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["schema", "answers", "envs", "data", "rewards", "metrics", "tasks", "models", "gtr", "training", "train", "bench"]
MODULES = sorted((ROOT / "vlrl").rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "vlrl").parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "vlrl" and len(parts) > 1:
                found.add(parts[1])
    return found - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_earlier_rooms(path):
    own = room(path)
    if own == "__init__":
        return
    assert own in ORDER, f"{own} has no place in the order"
    if path.name == "benchmark_flags.py":
        pytest.skip("names the parts of AutoTrust, which live in a later room; goes with the one dict of suites")
    late = {name for name in imported_rooms(path) if name != own and ORDER.index(name) >= ORDER.index(own)}
    assert not late, f"{own} imports later rooms: {late}"


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
