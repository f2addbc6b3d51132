"""`batch-estimator check`: exit codes, files and streams, with made-up answers in the engine's place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_up_check import NET, NET_BYTES, SLACK, made_up_answer
from typer.testing import CliRunner

from estimator.check.baseline import read_baseline
from estimator.cli import app
from estimator.device import DeviceProfile
from estimator.errors import FitError, SourceError
from estimator.result import Estimate
from estimator.units import MIB

pytestmark = pytest.mark.pure

GROWN = {**NET, ("encoder.9", "aten.mm.default", "activations"): 50 * MIB}
ENOUGH, TOO_LITTLE = NET_BYTES + SLACK, NET_BYTES


class Project:
    """A folder with jobs in it; `answers` are what the engine says of each, or what it raises."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, Callable[[], Estimate] | BaseException] = {}
        self.asked: list[Any] = []

    def write(self, name: str = "batch-estimator.toml", head: str = "", **budgets: int | str | None) -> None:
        lines = [head]
        for job, budget in budgets.items():
            lines.append(f'[jobs.{job}]\njob = "train.py:{job}"\ndevice = "l4"\nbatch_size = 16')
            if budget is not None:
                lines.append(f"budget = {budget!r}".replace("'", '"'))
        (self.folder / name).write_text("\n".join(lines) + "\n")

    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(app, ["check", "-q", *map(str, arguments)])

    @property
    def baseline(self) -> Path:
        return self.folder / ".batch-estimator.json"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)

    def answer(entry: Any, options: Any, progress: Any, job: Any) -> Estimate:
        project.asked.append((entry, Path.cwd()))
        made = project.answers.get(entry.name, made_up_answer)
        if isinstance(made, BaseException):
            raise made
        return made()

    monkeypatch.setattr("estimator.check.run._answer", answer)
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    return project


def test_all_is_well(project: Project) -> None:
    project.write(small=ENOUGH)
    result = project.run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert "small: ok" in result.stdout
    assert "not in the baseline yet" in result.stdout
    assert not project.baseline.exists()


@pytest.mark.parametrize(
    ("jobs", "code", "statuses"),
    [
        ({"a": None, "b": TOO_LITTLE}, 1, ["ok", "failed"]),
        ({"a": TOO_LITTLE, "put": None}, 2, ["failed", "not well put"]),
        (
            {"fit": None, "put": None, "a": TOO_LITTLE, "b": ENOUGH},
            3,
            ["cannot be predicted", "not well put", "failed", "ok"],
        ),
        ({"bug": None, "a": ENOUGH}, 3, ["cannot be predicted", "ok"]),
    ],
)
def test_all_jobs_are_tried_and_the_worst_code_wins(
    project: Project, jobs: dict[str, Any], code: int, statuses: list[str]
) -> None:
    project.answers |= {
        "fit": FitError("no lines", got="x"),
        "put": SourceError("no such job", hint="look"),
        "bug": ZeroDivisionError("oh"),
    }
    project.write(**jobs)
    result = project.run("--junit", "j.xml", "--markdown", "m.md")
    assert result.exit_code == code
    shown = [line for line in result.stdout.splitlines() if line.split(":")[0] in jobs]
    assert shown == [f"{name}: {status}" for name, status in zip(jobs, statuses, strict=True)]
    assert "Traceback" not in result.output
    suite = ElementTree.parse(project.folder / "j.xml").getroot()[0]
    assert [case.get("name") for case in suite] == list(jobs)
    assert (suite.get("failures"), suite.get("errors")) == (
        str(statuses.count("failed")), str(len(statuses) - statuses.count("failed") - statuses.count("ok")),
    )  # fmt: skip
    assert all(f"| {name} |" in (project.folder / "m.md").read_text(encoding="utf-8") for name in jobs)
    document = json.loads(project.run("--json").stdout)
    assert document["exit_code"] == code
    assert [job["name"] for job in document["jobs"]] == list(jobs)


def test_an_error_is_told_with_its_facts(project: Project) -> None:
    project.answers["a"] = FitError("no lines", got="seven", hint="do this")
    project.write(a=None)
    assert "  no lines\n      got: seven\n      do: do this\n" in project.run().stdout
    (job,) = json.loads(project.run("--json").stdout)["jobs"]
    assert (job["error"]["kind"], job["error"]["got"], job["batch"]) == ("FitError", "seven", None)
    project.answers["a"] = ZeroDivisionError("oh")
    assert "unexpected ZeroDivisionError: oh" in project.run().stdout
    assert "Traceback" in project.run("--debug").stderr


def test_a_baseline_is_made_held_broken_and_accepted(project: Project) -> None:
    """Its whole life: written once, equal the second time, broken by a module that grew, accepted, equal again."""
    project.write(a=None, b=None)
    made = project.run("--update-baseline")
    assert made.exit_code == 0
    assert "wrote .batch-estimator.json; commit it" in made.stdout
    first = project.baseline.read_bytes()
    assert project.run().stdout.count("unchanged") == 2
    again = project.run("--update-baseline")
    assert "nothing new for .batch-estimator.json" in again.stdout
    assert project.baseline.read_bytes() == first

    project.answers["a"] = lambda: made_up_answer(GROWN)
    broken = project.run()
    assert broken.exit_code == 1
    assert "a: failed" in broken.stdout
    assert "b: ok" in broken.stdout
    assert "encoder.9: aten.mm.default (activations) +50.00 MiB" in broken.stdout
    assert project.baseline.read_bytes() == first

    accepted = project.run("--update-baseline", "--json")
    assert accepted.exit_code == 0
    assert json.loads(accepted.stdout)["baseline_updated"] is True
    assert json.loads(accepted.stdout)["jobs"][0]["difference"]["parts"][0]["module"] == "encoder.9"
    assert project.run().exit_code == 0
    project.answers["a"] = made_up_answer
    less = project.run()
    assert less.exit_code == 0
    assert "takes less than the baseline" in less.stdout


def test_accepting_does_not_lift_the_budget(project: Project) -> None:
    """The baseline is written all the same: it says what is, not what may be."""
    project.write(a=TOO_LITTLE)
    assert project.run("--update-baseline").exit_code == 1
    assert list(read_baseline(project.baseline).jobs) == ["a"]


def test_jobs_without_new_figures_keep_their_old_ones(project: Project) -> None:
    """So do those that were not looked at; jobs that are no more are left out, and that is said."""
    project.write(a=None, b=None, c=None)
    project.run("--update-baseline")
    old = read_baseline(project.baseline).jobs
    project.answers |= {"a": FitError("no"), "b": lambda: made_up_answer(GROWN), "c": lambda: made_up_answer(GROWN)}
    project.write(a=None, b=None)
    assert "still in the baseline, though no job any more: c" in project.run().stdout
    result = project.run("--update-baseline", "--job", "a", "--job", "b")
    assert result.exit_code == 3
    assert "left out of the baseline, though no job any more: c" in result.stdout
    new = read_baseline(project.baseline).jobs
    assert list(new) == ["a", "b"]
    assert new["a"] == old["a"]
    assert new["b"] != old["b"]
    project.answers["b"] = made_up_answer
    assert project.run("--update-baseline", "--job", "a").exit_code == 3
    assert read_baseline(project.baseline).jobs == new


def test_nothing_is_written_where_nothing_is_known(project: Project) -> None:
    project.answers["a"] = FitError("no")
    project.write(a=None)
    assert project.run("--update-baseline").exit_code == 3
    assert not project.baseline.exists()


def test_a_baseline_of_other_versions(project: Project) -> None:
    """Exit code 2 with both versions and what to do; the budget is held all the same; accepting makes it anew."""
    project.write(a=None, b=TOO_LITTLE)
    project.run("--update-baseline")
    document = json.loads(project.baseline.read_text())
    for name in "ab":
        document["jobs"][name]["versions"]["torch"] = "2.11.0"
    project.baseline.write_text(json.dumps(document))
    result = project.run()
    assert result.exit_code == 2
    for said in (
        "made with other versions",
        "PyTorch 2.11.0, as in the baseline",
        "PyTorch 2.13.0",
        "--update-baseline",
    ):
        assert said in result.stdout
    assert "over budget" in result.stdout
    assert "since the baseline" not in result.stdout
    assert json.loads(project.run("--json").stdout)["jobs"][0]["difference"] is None
    accepted = project.run("--update-baseline")
    assert "old baseline was made with other versions" in accepted.stdout
    assert project.run().exit_code == 1


@pytest.mark.parametrize("text", ["<<<<<<< ours", '{"baseline_version": 99, "jobs": {}}'])
def test_a_baseline_of_another_form(project: Project, text: str) -> None:
    """Told before any work is done; made anew by accepting all jobs, but not by accepting some."""
    project.write(a=None, b=None)
    project.baseline.write_text(text)
    result = project.run("--json")
    assert (result.exit_code, project.asked) == (2, [])
    assert "--update-baseline" in json.loads(result.stdout)["error"]["do"]
    assert project.run("--update-baseline", "--job", "a").exit_code == 2
    assert project.baseline.read_text() == text
    assert project.run("--update-baseline").exit_code == 0
    assert list(read_baseline(project.baseline).jobs) == ["a", "b"]


def test_a_named_baseline_must_be_there(project: Project) -> None:
    """A file that was forgotten in a commit must not make every check pass."""
    project.write(head='baseline = "held.json"', a=None)
    result = project.run()
    assert result.exit_code == 2
    assert "held.json" in result.stderr
    assert project.run("--update-baseline").exit_code == 0
    assert (project.folder / "held.json").exists()
    assert project.run().exit_code == 0
    assert project.run("--baseline", "other.json").exit_code == 2
    assert project.run("--baseline", "held.json").exit_code == 0


def test_a_device_of_this_machine_has_no_baseline(project: Project) -> None:
    """What it has differs from machine to machine; its budget is held."""
    project.write(a=TOO_LITTLE, b=None)
    path = project.folder / "batch-estimator.toml"
    path.write_text(path.read_text().replace('"l4"', '"cpu"', 1))
    result = project.run("--update-baseline")
    assert "not compared with a baseline: figures of 'cpu' differ between machines" in result.stdout
    assert result.exit_code == 1
    assert list(read_baseline(project.baseline).jobs) == ["b"]


def test_a_cpu_described_by_a_profile_has_no_baseline_either(project: Project) -> None:
    """Its scratch is asked of this machine's libraries, with this machine's cores."""
    profile = DeviceProfile(name="node", kind="cpu", total_bytes=2**34)
    project.answers["a"] = lambda: made_up_answer().model_copy(update={"device": profile})
    project.write(a=None, b=None)
    project.run("--update-baseline")
    assert list(read_baseline(project.baseline).jobs) == ["b"]


def test_paths_start_from_the_file(project: Project, tmp_path: Path) -> None:
    """A job is loaded in its file's folder; the baseline lies beside it; what is written is where it was asked for."""
    (tmp_path / "sub").mkdir()
    project.write("sub/checks.toml", a=None)
    assert project.run("sub/checks.toml", "--update-baseline", "--junit", "j.xml").exit_code == 0
    assert [cwd for _, cwd in project.asked] == [tmp_path / "sub"]
    assert (tmp_path / "sub" / ".batch-estimator.json").exists()
    assert (tmp_path / "j.xml").exists()
    assert Path.cwd() == tmp_path


def test_pyproject_is_read_without_being_named(project: Project) -> None:
    text = '[tool.batch-estimator.jobs.p]\njob = "x.py"\ndevice = "l4"\nbatch_size = 1\n'
    (project.folder / "pyproject.toml").write_text(text)
    project.write(a=None)
    assert "p: ok" in project.run().stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["none.toml"], ["batch-estimator.toml", "--job", "smal"], ["--junit", "no/such/j.xml"], ["--markdown", "/"],
        ["--nonsense"], ["bad.toml"],
    ],
)  # fmt: skip
def test_usage_errors(project: Project, arguments: list[str]) -> None:
    """Exit code 2, told on stderr before any job is looked at."""
    if arguments:
        project.write(small=None)
    (project.folder / "bad.toml").write_text("[jobs.a]\nbudget = 1\n")
    result = project.run(*arguments)
    assert (result.exit_code, result.stdout, project.asked) == (2, "", [])
    assert result.stderr


def test_a_misspelt_job_is_told_with_the_nearest(project: Project) -> None:
    project.write(small=None)
    assert "smal: did you mean small?" in project.run("--job", "smal").stderr


def test_annotations(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stdout; with --json on stderr, as stdout is JSON's; only where wanted, or in GitHub Actions."""
    project.write(a=TOO_LITTLE)
    assert "::error" not in project.run().output
    result = project.run("--github")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("::")]
    assert line.startswith("::error file=batch-estimator.toml,line=2,title=a%3A failed::over budget: batch 16 needs")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert project.run().stdout.splitlines()[-1] == line
    assert "::error" not in project.run("--no-github").output
    result = project.run("--json")
    assert json.loads(result.stdout)["exit_code"] == 1
    assert result.stderr == f"{line}\n"


def test_what_the_job_prints_stays_off_stdout(project: Project) -> None:
    def chatty() -> Estimate:
        print("::error::forged")
        return made_up_answer()

    project.answers["a"] = chatty
    project.write(a=None)
    result = project.run("--json")
    assert json.loads(result.stdout)["exit_code"] == 0
    assert result.stderr == "::error::forged\n"


def test_ctrl_c(project: Project) -> None:
    project.answers["a"] = KeyboardInterrupt()
    project.write(a=None)
    assert project.run("--update-baseline").exit_code == 130
    assert not project.baseline.exists()


def test_what_is_asked_of_the_engine(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options of the job over those of its files, and the device with its memory, as `predict` would have them."""
    import sys
    from types import ModuleType

    import estimator.sources

    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    asked: dict[str, Any] = {}

    def load_job(spec: str, options: Any, *, on_card: bool) -> str:
        asked.update(spec=spec, options=options)
        return "the job"

    def estimate(job: Any, device: Any, **more: Any) -> Estimate:
        asked.update(job=job, device=device, **more)
        return made_up_answer()

    engine = ModuleType("estimator.pipeline")
    engine.estimate = estimate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "estimator.pipeline", engine)
    monkeypatch.setattr(estimator.sources, "load_job", load_job)
    (tmp_path / "args.json").write_text('{"train_micro_batch_size_per_gpu": 9, "gradient_clipping": 4.0}')
    (tmp_path / "batch-estimator.toml").write_text(
        '[jobs.a]\njob = "x.py:j"\ndevice = "L4"\nmemory = "3GiB"\nconfig = "args.json"\nprecision = "amp-bf16"\n'
        'torch_version = "2.12.0"\ntime_limit = 9\nisolate = false\nfreeze = ["a*", "b"]\nlora = "r=4"\n'
    )
    result = project.run("--update-baseline")
    assert result.exit_code == 0, result.output
    assert (asked["spec"], asked["job"], asked["torch_version"]) == ("x.py:j", "the job", "2.12.0")
    assert (asked["device"].name, asked["device"].free_bytes) == ("l4", 3 * 2**30)
    assert (asked["options"].precision, asked["options"].grad_clip) == ("amp-bf16", 4.0)
    assert (asked["time_limit_seconds"], asked["isolate"], asked["allow_real_run"]) == (9, False, False)
    assert read_baseline(project.baseline).jobs["a"].settings == {
        "batch_size": 9, "device": "card", "freeze": "a* b", "grad_clip": 4.0, "memory_bytes": 3 * 2**30,
        "precision": "amp-bf16", "lora": "r=4,alpha=16,dropout=0.0,targets=",
    }  # fmt: skip
