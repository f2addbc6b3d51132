"""README says how to run and test it in one line each, and names every command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def fenced_lines(heading: str) -> list[str]:
    """The lines within fences of the section under a heading."""
    assert README.count(f"\n## {heading}\n") == 1, heading
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for block in re.findall(r"^```\w*\n(.*?)^```$", section, re.S | re.M) for line in block.splitlines()]


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_a_heading_has_one_line_that_makes_what_it_needs(heading: str) -> None:
    (line,) = fenced_lines(heading)
    words = shlex.split(line)
    assert words[:4] == ["python3", "-m", "venv", ".venv"]
    assert words[words.index("-c") + 1] == "constraints.txt"


def test_the_job_of_the_run_line_is_there() -> None:
    words = shlex.split(fenced_lines("Run it")[0])
    path, _, name = words[words.index("predict") + 1].partition(":")
    assert f"def {name}(" in (ROOT / path).read_text()


def test_the_device_of_the_run_line_is_there() -> None:
    words = shlex.split(fenced_lines("Run it")[0])
    assert (ROOT / "profiles" / f"{words[words.index('--device') + 1]}.toml").exists()


def test_every_command_is_in_the_table() -> None:
    from estimator.cli import COMMANDS

    for command in COMMANDS:
        name = command.__name__.replace("_", "-")
        assert f"| `batch-estimator {name}" in README, f"README's table of commands lacks {name}"


def test_relative_links_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "benchmarks/truth/README.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_modules_of_the_benchmarks_that_the_docs_name_exist() -> None:
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    for module in set(re.findall(r"python -m (benchmarks\.\w+)", text)):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
