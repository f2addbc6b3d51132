"""The command line: exit codes, what goes to stdout and stderr, and how fast help answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from made_up import made_up_estimate
from typer.testing import CliRunner

from estimator.cli import COMMANDS, app
from estimator.errors import DeviceError, FitError, JobError
from estimator.job import PRECISIONS, TrainingJob

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parent.parent
JOB = TrainingJob(model=lambda: None, batch=lambda n: None, optimizer="sgd", name="net", precision="fp32")


def run(*arguments: object) -> Any:
    """Run a command; `predict` on a named card, as looking at this machine takes longer than the rest of a test."""
    if (
        arguments[:1] == ("predict",)
        and len(arguments) > 1
        and "--device" not in arguments
        and "--help" not in arguments
    ):
        arguments = (*arguments, "--device", "l4")
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the engine and the sources: `predict` answers from `asked["answer"]` and notes what it asked."""
    import estimator.sources

    asked: dict[str, Any] = {"answer": made_up_estimate, "job": JOB}

    def load_job(spec: str, options: Any = None, *, on_card: bool = False) -> TrainingJob:
        asked.update(spec=spec, options=options)
        return asked["job"]

    def estimate(job: TrainingJob, device: Any = None, **more: Any) -> Any:
        asked.update(estimated=job, device=device, **more)
        return asked["answer"]()

    engine = ModuleType("estimator.pipeline")
    engine.estimate = estimate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "estimator.pipeline", engine)
    monkeypatch.setattr(estimator.sources, "load_job", load_job)
    return asked


def failing(error: BaseException) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


@pytest.mark.parametrize("command", [c.__name__ for c in COMMANDS])
def test_every_command_has_help(command: str) -> None:
    """Each command says what it does, and each of its options too."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert re.search(r"^  [A-Z].*\.$", result.stdout, flags=re.MULTILINE)
    for line in re.findall(r"^  (--?[a-z].*)$", result.stdout, flags=re.MULTILINE):
        assert "  " in line or len(line) > 30, f"no help: {line}"


def test_every_command_is_documented() -> None:
    """A command that the README or a file of docs/ does not name fails this test."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [c.__name__ for c in COMMANDS if f"batch-estimator {c.__name__}" not in text] == []


def test_precisions_in_help_are_all_that_there_are() -> None:
    """The help is written by hand, as pydantic is too slow to import for it; it must not fall behind."""
    text = " ".join(run("predict", "--help").stdout.split())
    for precision in PRECISIONS:
        assert precision in text


def test_fits(asked: dict[str, Any]) -> None:
    """Exit code 0 and the report on stdout, nothing on stderr."""
    result = run("predict", "x.py:job", "--device", "L4")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Largest batch that fits: 8" in result.stdout
    assert (asked["spec"], asked["device"].name) == ("x.py:job", "l4")


def test_nothing_fits(asked: dict[str, Any]) -> None:
    """Batch 0 is an answer on stdout, with exit code 1."""
    asked["answer"] = lambda: made_up_estimate(0)
    result = run("predict", "x.py:job", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["max_batch_size"] == 0


@pytest.mark.parametrize(("size", "code"), [(5, 0), (8, 0), (9, 1)])
def test_asked_batch_decides(asked: dict[str, Any], size: int, code: int) -> None:
    """--batch-size reports that batch too, and the exit code is about it."""
    result = run("predict", "x.py:job", "--batch-size", size, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == code
    assert document["requested_batch_size"] == size
    assert document["at"][str(size)]["fits"] is document["fits"] is (code == 0)
    assert f"asked, {size}" in run("predict", "x.py:job", "-b", size).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["predict"],
        ["predct", "x"],
        ["predict", "x.py:job", "--nonsense"],
        ["predict", "x.py:job", "--batch-size", "0"],
        ["predict", "x.py:job", "--batch-size", "many"],
        ["predict", "x.py:job", "--memory", "24 bananas"],
        ["predict", "x.py:job", "--memory", "-1"],
        ["predict", "x.py:job", "--precision", "fp12"],
        ["predict", "x.py:job", "--torch-version", "potato"],
        ["predict", "x.py:job", "--timeline", "/no/such/folder/t.json"],
        ["predict", "x.py:job", "--graph", "/"],
        ["predict", "x.py:job", "--grad-clip", "-1"],
        ["predict", "x.py:job", "--lora", "rank:3"],
        ["devices", "--profiles", "/no/such"],
        ["replay", "/no/such/history.json"],
    ],
)
def test_usage_errors(asked: dict[str, Any], arguments: list[str]) -> None:
    """What is not well put ends with exit code 2, a text on stderr, and no traceback."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.strip()
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DeviceError("no such device", got="a1000", allowed="l4", where="--device", hint="did you mean a100?"), 2),
        (JobError("not a job", problems=["batch: must be given"]), 2),
        (FitError("bytes do not follow the batch size", where="aten.nonzero"), 3),
    ],
)
def test_errors_have_their_exit_codes(asked: dict[str, Any], error: Any, code: int) -> None:
    """The text with its facts goes to stderr; with --json the same goes to stdout as an object."""
    asked["answer"] = failing(error)
    result = run("predict", "x.py:job", "--json")
    assert result.exit_code == code
    document = json.loads(result.stdout)["error"]
    assert (document["what"], document["exit_code"], document["kind"]) == (error.what, code, type(error).__name__)
    assert result.stderr == f"error: {error}\n"
    assert run("predict", "x.py:job").stdout == ""


def test_unforeseen_errors_are_short_unless_debugging(asked: dict[str, Any]) -> None:
    """No traceback without --debug; with it, the whole of it. No number can be given: exit code 3."""
    asked["answer"] = failing(ZeroDivisionError("seven"))
    short, long = run("predict", "x.py:job"), run("predict", "x.py:job", "--debug")
    assert short.exit_code == long.exit_code == 3
    assert "ZeroDivisionError: seven" in short.stderr
    assert "--debug" in short.stderr
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr


def test_interrupt(asked: dict[str, Any]) -> None:
    """Ctrl-C ends with 130 and one word."""
    asked["answer"] = failing(KeyboardInterrupt())
    result = run("predict", "x.py:job")
    assert (result.exit_code, result.stderr, result.stdout) == (130, "interrupted\n", "")


def test_options_reach_the_job_and_the_engine(asked: dict[str, Any], tmp_path: Path) -> None:
    """Every option lands where it belongs; what was not said stays unsaid, so that the job's own holds."""
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nkind = "cuda"\ntotal_bytes = 4294967296\ncompute_capability = [8, 0]\n'
        "multiprocessor_count = 1\n"
    )
    line = (
        f"predict x.py:job --device mine --profiles {tmp_path} --memory 3GiB --torch-version 2.12.0 --allow-real-run "
        "--no-isolate --time-limit 9 --precision amp-fp16 --optimizer adamw --image-size 64 --sequence-length 128 "
        "--accumulation-steps 4 --grad-clip 1.5 --grad-scaler --no-channels-last --mode train "
        "--cudnn-benchmark --alloc-conf expandable_segments:True "
        "--build host --lora r=4 --freeze a* --freeze b --checkpointing "
        "--attn eager --num-classes 10 --batch-dim 1 --frames 3 --task causal-lm --deterministic"
    )
    assert run(*line.split()).exit_code == 0
    assert asked["options"].model_dump(exclude_none=True, exclude={"lora", "notes"}) == {
        "precision": "amp-fp16", "optimizer": "adamw", "image_size": 64, "sequence_length": 128,
        "accumulation_steps": 4, "grad_clip": 1.5, "grad_scaler": True, "channels_last": False, "mode": "train",
        "cudnn_benchmark": True, "alloc_conf": "expandable_segments:True", "build": "host", "freeze": ("a*", "b"),
        "checkpointing": True, "attn": "eager", "num_classes": 10, "batch_dim": 1, "frames": 3, "task": "causal-lm",
        "deterministic": True,
    }  # fmt: skip
    assert asked["options"].lora.r == 4
    names = ("torch_version", "allow_real_run", "isolate", "time_limit_seconds")
    assert [asked[name] for name in names] == ["2.12.0", True, False, 9]
    assert (asked["device"].name, asked["device"].free_bytes) == ("mine", 3 * 2**30)
    run("predict", "x.py:job")
    assert asked["options"].model_dump(exclude_none=True) == {"notes": ()}


def test_config_files_below_the_command_line(asked: dict[str, Any], tmp_path: Path) -> None:
    """A later file wins over an earlier one, the command line over both; a batch size that they name is reported."""
    first, second = tmp_path / "args.json", tmp_path / "deepspeed.json"
    first.write_text('{"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3, "max_grad_norm": 2.0}')
    second.write_text('{"train_micro_batch_size_per_gpu": 9, "gradient_clipping": 4.0}')
    result = run("predict", "x.py:job", "--config", first, "--config", second, "--grad-clip", "1", "--json")
    assert (asked["options"].accumulation_steps, asked["options"].grad_clip) == (3, 1.0)
    assert (json.loads(result.stdout)["requested_batch_size"], result.exit_code) == (9, 1)
    result = run("predict", "x.py:job", "--config", first, "--batch-size", "7", "--json")
    assert (json.loads(result.stdout)["requested_batch_size"], result.exit_code) == (7, 0)
    assert run("predict", "x.py:job", "--config", tmp_path / "nothing.json").exit_code == 2


def test_stdout_belongs_to_the_answer(asked: dict[str, Any]) -> None:
    """What the user's code prints goes to stderr: --json stays JSON."""

    def answer() -> Any:
        print("loading my data")
        return made_up_estimate()

    asked["answer"] = answer
    result = run("predict", "x.py:job", "--json")
    assert json.loads(result.stdout)["job"] == "net"
    assert result.stderr == "loading my data\n"
