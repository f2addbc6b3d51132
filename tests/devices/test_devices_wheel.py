"""The built wheel brings the profiles."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.pure, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def test_devices_are_found_from_a_wheel(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    tree = tmp_path / "tree"
    for folder in ("estimator", "profiles"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    for name in ("README.md", "LICENSE"):
        (tree / name).write_text("stands in for the real one\n")
    built = tmp_path / "built"
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)], cwd=tree, check=True)
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("estimator/_profiles/")}
        archive.extractall(tmp_path / "site")
    assert names == {f"estimator/_profiles/{path.name}" for path in (ROOT / "profiles").glob("*.toml")}
    code = "from estimator.devices import catalogue; print(catalogue.__file__, catalogue.find_device('a100').name)"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert child.stdout.split() == [str(tmp_path / "site" / "estimator" / "devices" / "catalogue.py"), "a100-80gb"]
