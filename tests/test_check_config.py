"""The jobs to check, read from TOML: every problem of a file at once, each with its path."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from estimator.check.config import BASELINE, JOB_KEYS, find_config, make_entry, read_config
from estimator.check.sizes import Tolerance
from estimator.errors import ConfigError
from estimator.sources import JobOptions
from estimator.units import GIB, MIB

pytestmark = pytest.mark.pure

JOB = 'job = "train.py:job"\ndevice = "l4"\nbatch_size = 16\n'


def written(folder: Path, text: str, name: str = "checks.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    return caught.value


@pytest.mark.parametrize(("name", "prefix"), [("pyproject.toml", "tool.batch-estimator."), ("checks.toml", "")])
def test_the_same_jobs_in_either_file(tmp_path: Path, name: str, prefix: str) -> None:
    text = f'[project]\nname = "x"\n\n[{prefix}jobs.small]\n{JOB}budget = "20GiB"\nimage_size = 64\n'
    if not prefix:
        text = text.removeprefix('[project]\nname = "x"\n')
    config = read_config(written(tmp_path, text, name))
    (entry,) = config.jobs
    assert (entry.name, entry.job, entry.device, entry.batch_size) == ("small", "train.py:job", "l4", 16)
    assert entry.budget == 20 * GIB
    assert entry.options == JobOptions(image_size=64)
    assert entry.tolerance == Tolerance()
    assert entry.line == text[: text.index(".small]" if prefix else "[jobs.small]")].count("\n") + 1
    assert (config.baseline, config.baseline_is_named) == (tmp_path / BASELINE, False)


def test_every_option_has_its_place(tmp_path: Path) -> None:
    """All that a job may say, in one table; what names a file stays relative."""
    text = (
        'baseline = "held.json"\n[jobs."a b"]\njob = "torchvision:resnet50"\ndevice = "mine"\nbatch_size = 8\n'
        'max_batch_size = 12\ntolerance = "2.5%"\nmemory = 4294967296\nprofiles = "cards"\ntorch_version = "2.12.0"\n'
        'config = "args.json"\nallow_real_run = true\nisolate = false\ntime_limit = 30\nprecision = "amp-bf16"\n'
        'optimizer = "sgd"\nimage_size = 64\nsequence_length = 128\nchannels_last = true\nmode = "train"\n'
        'lora = "r=4"\nfreeze = ["a*", "b"]\nalloc_conf = "expandable_segments:True"\nnum_classes = 10\n'
    )
    config = read_config(written(tmp_path, text))
    (entry,) = config.jobs
    assert (entry.name, entry.line, entry.max_batch_size) == ("a b", 2, 12)
    assert entry.tolerance == Tolerance(percent=Fraction(5, 2))
    assert (entry.memory, entry.profiles, entry.torch_version) == (4 * GIB, Path("cards"), "2.12.0")
    assert (entry.config, entry.allow_real_run, entry.isolate, entry.time_limit) == (
        (Path("args.json"),),
        True,
        False,
        30,
    )
    assert entry.options.lora is not None
    assert entry.options.lora.r == 4
    assert (entry.options.freeze, entry.options.channels_last) == (("a*", "b"), True)
    assert (config.baseline, config.baseline_is_named) == (tmp_path / "held.json", True)


def test_all_problems_at_once_each_with_its_path(tmp_path: Path) -> None:
    text = (
        'basline = "x"\n[jobs]\nc = 7\n[jobs.small]\n'
        'job = "train.py:job"\ndevice = "l5"\nbatch_size = "16"\nbudget = "20 bananas"\n'
        'presicion = "fp32"\nprecision = "fp12"\ntolerance = "-1%"\ntorch_version = "new"\n'
        "[jobs.b]\ndevice = 3\nimage_size = 0\n"
    )
    error = refused(written(tmp_path, text))
    said = {problem.split(":")[0]: problem for problem in error.problems}
    assert list(said) == [
        "basline",
        "jobs.c",
        *(
            f"jobs.small.{key}"
            for key in ("presicion", "precision", "batch_size", "budget", "tolerance", "torch_version")
        ),
        "jobs.small.device",
        *(f"jobs.b.{key}" for key in ("image_size", "job", "device", "batch_size")),
    ]
    assert said["basline"].endswith("did you mean baseline?")
    assert said["jobs.small.presicion"].endswith("did you mean precision?")
    assert "not a size in bytes (got '20 bananas')" in said["jobs.small.budget"]
    assert "2%" in said["jobs.small.tolerance"]
    assert "(got 'l5')" in said["jobs.small.device"]
    assert error.where == str(tmp_path / "checks.toml")
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("budget = 0", "budget"), ("budget = 1.5", "budget"), ("budget = true", "budget"),
        ("batch_size = 0", "batch_size"), ("max_batch_size = 0", "max_batch_size"),
        ("time_limit = 0", "time_limit"), ('memory = ""', "memory"),
        ('grad_clip = "no"', "grad_clip"), ('lora = "rank=3"', "lora"), ("line = 3", "line"), ('name = "x"', "name"),
        ("options = {}", "options"), ("batch_dim = 1.5", "batch_dim.int"), ('tolerance = "1 %%"', "tolerance"),
    ],
)  # fmt: skip
def test_values_that_cannot_be(tmp_path: Path, line: str, problem: str) -> None:
    text = JOB.replace("batch_size = 16\n", "") if line.startswith("batch_size") else JOB
    error = refused(written(tmp_path, f"[jobs.a]\n{text}{line}\n"))
    assert error.problems[0].startswith(f"jobs.a.{problem}: ")


def test_a_batch_size_may_come_from_a_file(tmp_path: Path) -> None:
    text = '[jobs.a]\njob = "x.py"\ndevice = "l4"\n'
    assert refused(written(tmp_path, text)).problems == (
        "jobs.a.batch_size: must be given (or a file in config that names it)",
    )
    assert read_config(written(tmp_path, text + 'config = ["args.json"]\n')).jobs[0].batch_size is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", '[project]\nname = "x"\n'),
        ("pyproject.toml", "[tool]\nbatch-estimator = 3\n"),
        ("checks.toml", ""),
        ("checks.toml", "jobs = 3\n"),
        ("checks.toml", "[jobs]\n"),
        ("checks.toml", "[jobs.a\n"),
    ],
)
def test_files_without_jobs(tmp_path: Path, name: str, text: str) -> None:
    assert refused(written(tmp_path, text, name)).where == str(tmp_path / name)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in str(refused(tmp_path / "none.toml"))
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    assert "UTF-8" in str(refused(tmp_path / "latin.toml"))


def test_where_jobs_are_looked_for(tmp_path: Path) -> None:
    """`pyproject.toml` if it has our table, else `batch-estimator.toml`, else an error that says what to write."""
    with pytest.raises(ConfigError, match="no jobs to check") as caught:
        find_config(tmp_path)
    assert "[tool.batch-estimator.jobs.NAME]" in str(caught.value)
    own = written(tmp_path, f"[jobs.a]\n{JOB}", "batch-estimator.toml")
    assert find_config(tmp_path) == own
    project = written(tmp_path, '[project]\nname = "x"\n', "pyproject.toml")
    assert find_config(tmp_path) == own
    project.write_text(f"[tool.batch-estimator.jobs.a]\n{JOB}")
    assert find_config(tmp_path) == project


def test_devices_of_a_users_own_are_looked_up_later(tmp_path: Path) -> None:
    for line in ('device = "card.toml"', 'device = "mine"\nprofiles = "cards.toml"', 'device = "here"'):
        (entry,) = read_config(written(tmp_path, f'[jobs.a]\njob = "x.py"\nbatch_size = 1\n{line}\n')).jobs
        assert entry.is_local is (entry.device == "here")


@pytest.mark.parametrize(
    ("value", "baseline", "allowed"),
    [(0, 10**9, 0), ("64MiB", 10**9, 64 * MIB), ("2.5%", 1000, 25), ("0.1%", 999, 0), (7, 3, 7), ("10 %", 25, 2)],
)
def test_tolerance(value: Any, baseline: int, allowed: int) -> None:
    """A share is of the baseline's own figure, exactly, and rounded down: 0.1 % of 999 bytes is none."""
    assert Tolerance.parse(value).allowed_bytes(baseline) == allowed


def test_an_entry_from_a_call() -> None:
    entry = make_entry("fixture", {"job": "x", "device": "L4", "batch_size": 2, "budget": "1GiB"})
    assert (entry.budget, entry.line) == (GIB, None)
    with pytest.raises(ConfigError) as caught:
        make_entry("fixture", {"job": "x", "devic": "l4", "batch_size": 2})
    assert caught.value.problems == ("devic: no such key; did you mean device?", "device: must be given")


def test_every_option_of_predict_is_a_key() -> None:
    """What the command line of `predict` takes, a job of a file takes too."""
    from inspect import signature

    from estimator.commands.predict import predict

    about_the_answer = {"timeline", "graph", "html", "as_json", "verbose", "quiet", "debug"}
    about_the_host = {"workers", "prefetch_factor", "pin_memory", "state_load"}
    assert set(signature(predict).parameters) - about_the_answer - about_the_host <= set(JOB_KEYS)
