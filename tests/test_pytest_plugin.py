"""The fixture and the marker `memory_budget`, in test sessions of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_up_check import NET_BYTES, SLACK, made_up_answer

# Imported here, as pytester forgets what is first imported within a session of its own.
from estimator.check import run as check_run
from estimator.result import Estimate

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = "estimator.integrations.pytest_plugin"
ENTRY = ("pytest11", "batch_estimator", PLUGIN)
INSTALLED = any((e.group, e.name, e.value) == ENTRY for e in metadata.entry_points(group="pytest11"))
LOAD = () if INSTALLED else ("-p", PLUGIN)
"""An environment whose package was installed before it had the entry point is told of the plugin."""
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
"""Hypothesis would be imported anew for each session, which takes seconds."""
ENOUGH, TOO_LITTLE = NET_BYTES + SLACK, NET_BYTES
HEAD = f"""
import pytest

from estimator import TrainingJob

ENOUGH, TOO_LITTLE = {ENOUGH}, {TOO_LITTLE}
asked = dict(device="l4", batch_size=16)


def make_job():
    return TrainingJob(model=lambda: None, batch=lambda n: None, optimizer="sgd", name="net")


"""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Made-up answers in the engine's place; what was asked of it."""
    asked: list[Any] = []

    def answer(entry: Any, options: Any, progress: Any, job: Any) -> Estimate:
        asked.append((entry, job, Path.cwd()))
        return made_up_answer()

    monkeypatch.setattr(check_run, "_answer", answer)
    return asked


def run(pytester: pytest.Pytester, body: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + body)
    return pytester.runpytest_inprocess(*LOAD, *QUICK, *arguments)


def test_the_fixture_gives_the_memory(pytester: pytest.Pytester, engine: list[Any]) -> None:
    """A job, a function that makes one, or a text that names one."""
    body = """
@pytest.mark.parametrize("job", [make_job(), make_job, "train.py:job"])
def test_it(memory_budget, job):
    batch = memory_budget(job, budget=ENOUGH, **asked)
    assert (batch.batch_size, batch.by_category["activations"]) == (16, 300 * 2**20)
"""
    run(pytester, body).assert_outcomes(passed=3)
    assert [(entry.job, getattr(job, "name", None)) for entry, job, _ in engine] == [
        ("net", "net"), ("make_job", "net"), ("train.py:job", None),
    ]  # fmt: skip
    assert {cwd for _, _, cwd in engine} == {pytester.path}


def test_over_the_budget(pytester: pytest.Pytester, engine: list[Any]) -> None:
    """The test fails, where it asked, with what takes the room; no frames of ours are shown."""
    body = """
def test_it(memory_budget):
    memory_budget(make_job(), budget=TOO_LITTLE, **asked)
    raise AssertionError("not reached")
"""
    result = run(pytester, body)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "over budget: batch 16 needs 609.00 MiB (high end: 629.00 MiB)" in text
    assert "encoder.0: aten.convolution.default (activations) 200.00 MiB" in text
    assert "not reached" not in text
    assert "pytest_plugin.py" not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("batch_size=65", "batch 65 does not fit card"),
        ("batch_size=1, max_batch_size=65", "the largest batch that fits is 64, it must be 65 at least"),
        ("batch_size=1, budget='1 banana'", "budget: not a size in bytes (got '1 banana')"),
        ("batch_size=1, presicion='fp32'", "presicion: no such key; did you mean precision?"),
        ("batch_size=1, tolerance='1%'", "tolerance: no such key"),
        ("budget='1GiB'", "batch_size: must be given"),
        ("batch_size=1, device='l5'", "device: no device has that name (got 'l5')"),
    ],
)
def test_what_else_fails_a_test(pytester: pytest.Pytester, engine: list[Any], options: str, said: str) -> None:
    result = run(
        pytester,
        f"def test_it(memory_budget):\n    memory_budget(make_job(), **{{'device': 'l4', **dict({options})}})\n",
    )
    result.assert_outcomes(failed=1)
    assert said in result.stdout.str()


@pytest.mark.parametrize("job", ["None", "7", "lambda: 7"])
def test_what_is_no_job(pytester: pytest.Pytester, engine: list[Any], job: str) -> None:
    result = run(pytester, f"def test_it(memory_budget):\n    memory_budget({job}, **asked)\n")
    result.assert_outcomes(failed=1)
    assert engine == []
    assert "job" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_the_marker_checks_before_the_test(pytester: pytest.Pytester, engine: list[Any]) -> None:
    """The body of a test whose job is over the budget is not run; every marker with a job is checked."""
    body = """
@pytest.mark.memory_budget(make_job(), budget=ENOUGH, **asked)
def test_within():
    pass

@pytest.mark.memory_budget(job=make_job, budget=TOO_LITTLE, **asked)
def test_over():
    raise AssertionError("not reached")

@pytest.mark.memory_budget("a.py:job", budget=ENOUGH, **asked)
@pytest.mark.memory_budget("b.py:job", budget=TOO_LITTLE, **asked)
def test_two():
    raise AssertionError("not reached")
"""
    result = run(pytester, body, "--strict-markers")
    result.assert_outcomes(passed=1, failed=2)
    assert "not reached" not in result.stdout.str()
    assert [entry.job for entry, _, _ in engine] == ["net", "make_job", "a.py:job", "b.py:job"]


def test_markers_without_a_job_set_defaults(pytester: pytest.Pytester, engine: list[Any]) -> None:
    """The closest says what holds: the call, then the function's marker, the class's, the module's."""
    body = """
pytestmark = pytest.mark.memory_budget(device="l4", batch_size=1, budget=TOO_LITTLE)

@pytest.mark.memory_budget(batch_size=2)
class TestIt:
    @pytest.mark.memory_budget(budget=ENOUGH)
    def test_fixture(self, memory_budget):
        assert memory_budget("x.py:job").batch_size == 2
        assert memory_budget("x.py:job", batch_size=3).batch_size == 3

    @pytest.mark.memory_budget("y.py:job", budget=ENOUGH)
    def test_marker(self):
        pass

    def test_module(self, memory_budget):
        memory_budget("x.py:job")

def test_nothing_to_do_with_it():
    pass
"""
    result = run(pytester, body)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["FAILED *::TestIt::test_module - *"])


def test_a_marker_that_checks_nothing_is_told(pytester: pytest.Pytester, engine: list[Any]) -> None:
    result = run(pytester, "@pytest.mark.memory_budget(budget='1GiB')\ndef test_it():\n    pass\n")
    result.assert_outcomes(failed=1)
    assert "nothing would be checked" in result.stdout.str()


def test_a_job_is_traced_once(pytester: pytest.Pytester, engine: list[Any]) -> None:
    """For all batch sizes and budgets of a session; another job, device or option is another question."""
    body = """
JOB = make_job()

@pytest.mark.parametrize("size", [1, 2, 3])
def test_sizes(memory_budget, size):
    assert memory_budget(JOB, device="l4", batch_size=size, budget=ENOUGH + size).batch_size == size

def test_others(memory_budget):
    memory_budget(JOB, device="t4", batch_size=1)
    memory_budget(JOB, device="l4", batch_size=1, precision="bf16")
    memory_budget(make_job(), device="l4", batch_size=1)
    memory_budget(make_job(), device="l4", batch_size=1)
"""
    run(pytester, body).assert_outcomes(passed=4)
    assert [(entry.device, entry.options.precision) for entry, _, _ in engine] == [
        ("l4", None), ("t4", None), ("l4", "bf16"), ("l4", None), ("l4", None),
    ]  # fmt: skip


def test_junit_carries_the_numbers(pytester: pytest.Pytester, engine: list[Any]) -> None:
    """Of each prediction, the first's under the plain name; of a test that failed too."""
    body = """
def test_it(memory_budget):
    memory_budget(make_job(), **asked)
    memory_budget(make_job(), device="l4", batch_size=8, budget=TOO_LITTLE)
"""
    run(pytester, body, "--junitxml=j.xml").assert_outcomes(failed=1)
    (case,) = ElementTree.parse(pytester.path / "j.xml").iter("testcase")
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["memory_budget.batch_size"] == "16"
    assert properties["memory_budget.peak_device_bytes"] == str(NET_BYTES)
    assert properties["memory_budget.peak_device_high_bytes"] == str(NET_BYTES + SLACK)
    assert "memory_budget.budget_bytes" not in properties
    assert properties["memory_budget.2.batch_size"] == "8"
    assert properties["memory_budget.2.budget_bytes"] == str(TOO_LITTLE)
    assert properties["memory_budget.max_batch_size"] == "64"


def test_the_marker_is_listed(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*LOAD, "--markers")
    assert "@pytest.mark.memory_budget(job=None, *, device, batch_size, budget=None" in result.stdout.str()


def test_the_entry_point_loads_it_and_nothing_heavy(tmp_path: Path) -> None:
    """In a real process, through what the installed package would say of itself: no torch, pydantic or numpy."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[project.entry-points.pytest11]\n")[1].split("\n\n")[0]
    assert section == f'batch_estimator = "{PLUGIN}"'
    info = tmp_path / "site" / "made_up-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{section.replace(chr(34), '')}\n")
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n"
        "def test_it(memory_budget):\n"
        f"    assert {PLUGIN!r} in sys.modules\n"
        "    heavy = [m for m in ('torch', 'pydantic', 'numpy', 'rich', 'typer') if m in sys.modules]\n"
        "    assert not heavy\n"
    )
    # Plugins that happen to be installed here may import what they like, so only this one is loaded by itself.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "batch_estimator", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_hook_for_pre_commit_runs_a_command_that_is_there() -> None:
    """Its words are the command's own, without files."""
    fields = dict(
        line.lstrip("- ").split(": ", 1)
        for line in (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8").splitlines()
        if ": " in line and not line.lstrip().startswith("#")
    )
    from typer.testing import CliRunner

    from estimator.cli import app

    program, *words = fields["entry"].split()
    assert (program, fields["pass_filenames"], fields["id"]) == ("batch-estimator", "false", "batch-estimator-check")
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
