"""`constraints.txt`: the versions that the gate passed with, of everything that `pyproject.toml` asks for."""

import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}


def required(extras):
    """The requirements of the package and of these extras, without those on the package itself."""
    words = [*PROJECT["dependencies"], *(word for extra in extras for word in PROJECT["optional-dependencies"][extra])]
    return [Requirement(word) for word in words if not word.startswith("vlrl")]


def test_every_line_pins_one_version():
    assert len(LINES) == len(PINS) > 30
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in LINES)


@pytest.mark.parametrize(
    "requirement", required(["demo", "data", "images", "smolvlm", "test"]), ids=lambda requirement: requirement.name
)
def test_what_the_project_requires_is_pinned_within_its_bounds(requirement):
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_gate_installed_the_pinned_versions():
    """Elsewhere other versions are fine, and this skips naming them."""
    different = []
    for name, version in PINS.items():
        try:
            found = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue  # of another platform, or of an extra that is not installed
        if found != version:
            different.append(f"{name} {found}, not {version}")
    if different and os.environ.get("CI") != "true":
        pytest.skip("installed versions differ from constraints.txt: " + "; ".join(different))
    assert not different, (
        "constraints.txt names other versions than those installed; where all tests pass with these, write them into it: "
        + "; ".join(different)
    )


@pytest.mark.quick
def test_the_dockerfile_installs_extras_that_exist_and_has_steps_that_its_script_runs(tmp_path):
    """Really run by `tests/dockerfile_steps.sh FOLDER`; here every step with a shell that writes down what it is given."""
    steps = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    extras = {name for step in steps for found in re.findall(r"\$VLRL\[([a-z0-9,]+)\]", step) for name in found.split(",")}
    assert extras == {"deepspeed", "demo", "data", "images", "vllm"} <= set(PROJECT["optional-dependencies"])
    assert {step.split()[0] for step in steps} == {"FROM", "ARG", "RUN", "ENV", "COPY", "WORKDIR", "CMD"}
    assert not any(step.endswith("\\") for step in steps)
    (tmp_path / "bin").mkdir()
    for name in ("bash", "vlrl"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/ran"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "opt/train/bin").mkdir(parents=True)
    environ = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    script = ["/bin/bash", str(ROOT / "tests/dockerfile_steps.sh"), str(tmp_path / "opt"), "train"]
    done = subprocess.run(script, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = (tmp_path / "ran").read_text().splitlines()
    assert [line for line in ran if "pip" in line] == [next(f"bash -ec {s[4:]}" for s in steps if "$TRAIN/bin/pip" in s)]
    assert ran[-1].startswith("vlrl train --task detection --max_steps 2")
    assert (tmp_path / "opt/vlrl/pyproject.toml").is_file()
    assert "the image itself was not built" in done.stdout
