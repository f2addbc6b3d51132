"""`calibrate`: real steps on this CPU; a card through stand-ins; the profile and its file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from estimator.calibrate import Calibration, Compared, Plan, Run, calibrated_profile, profile_text, write_profile
from estimator.calibrate.run import _notes, _on_card, calibrate, run_child
from estimator.cli import app
from estimator.device import DeviceProfile
from estimator.devices.context import LOADED_MODULES_HIGH_BYTES
from estimator.devices.files import read_profile
from estimator.devices.nvml import Use
from estimator.errors import CannotPredictError, ConfigError, JobError, UsageError
from estimator.units import MIB

GIB = 1 << 30
JOB = """
import os, signal
import torch
from estimator import TrainingJob

print("the user's own words")


def job():
    return TrainingJob(
        model=lambda: torch.nn.Linear(2048, 2048), batch=lambda n: torch.randn(n, 2048),
        loss=lambda model, x: model(x).square().mean(), optimizer="adamw",
    )


def dies():
    return job().with_(loss=lambda model, x: os.kill(os.getpid(), signal.SIGKILL))


def fails():
    return job().with_(loss=lambda model, x: model(x[:, :3]))


def scalar():
    return job().with_(batch=lambda n: torch.tensor(1.0))
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_job.py"
    path.write_text(JOB)
    return path


# ------------------------------------------------------------ on this CPU


@pytest.mark.torch
@pytest.mark.slow
def test_the_cpu_that_is_here(jobs: Path, tmp_path: Path) -> None:
    """The weight has 16 MiB: weight, gradient and two states of AdamW make 64 MiB of tensors at the least."""
    arguments = ["calibrate", f"{jobs}:job", "--device", "cpu", "--repeat", "2", "-b", "64", "-q", "-o", "mine.toml"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    lines = {line["name"]: line for line in document["calibration"]["compared"]}
    assert lines["tensors"]["measured_bytes"] == lines["tensors"]["predicted_bytes"] > 64 * MIB
    under = [line["name"] for line in lines.values() if line["measured_bytes"] > line["predicted_bytes"]]
    assert [note.partition(":")[0] for note in document["calibration"]["notes"]] == under, "no under-estimate in silence"
    # The growth holds the tensors, all of them written to.
    assert lines["growth of the resident memory"]["least_bytes"] > 60 * MIB
    profile = read_profile(tmp_path / "mine.toml")
    assert profile.model_dump(mode="json") == document["profile"]
    assert profile.context_bytes == lines["process beside the tensors"]["measured_bytes"] > 64 * MIB
    assert profile.context_low_bytes is not None
    assert profile.context_low_bytes <= profile.context_bytes == profile.context_high_bytes
    assert "2 real steps" in profile.sources["context_bytes"]
    kept = (tmp_path / "mine.toml").read_text()
    assert "[[calibration.compared]]" in kept
    assert "runs = [" in kept

    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "there already" in again.stderr
    assert (tmp_path / "mine.toml").read_text() == kept


@pytest.mark.torch
def test_a_process_that_dies_is_told(jobs: Path) -> None:
    with pytest.raises(CannotPredictError, match="died") as caught:
        run_child(Plan(spec=f"{jobs}:dies", batch_size=2))
    assert caught.value.got == "signal SIGKILL"


@pytest.mark.torch
def test_steps_that_fail_and_ones_that_take_too_long(jobs: Path) -> None:
    with pytest.raises(CannotPredictError, match="the steps fail") as caught:
        run_child(Plan(spec=f"{jobs}:fails", batch_size=2))
    assert "shapes cannot be multiplied" in str(caught.value.got)
    line = JOB[: JOB.index("model(x[:, :3])")].count("\n") + 1
    assert f"{jobs}:{line} in <lambda>" in str(caught.value.where)
    with pytest.raises(CannotPredictError, match="out of time"):
        run_child(Plan(spec=f"{jobs}:job", batch_size=2), time_limit_seconds=0.05)


@pytest.mark.torch
def test_an_error_of_ours_comes_out_of_the_child_as_itself(jobs: Path) -> None:
    with pytest.raises(UsageError, match="my_job"):
        run_child(Plan(spec=f"{jobs}:no_such", batch_size=2))
    with pytest.raises(JobError, match="no optimizer has that name"):
        run_child(Plan(spec=f"{jobs}:job", options={"optimizer": "adamwww"}, batch_size=2))


@pytest.mark.torch
def test_a_batch_that_would_not_fit_is_not_run(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from estimator.sources import load_job

    monkeypatch.setattr("estimator.calibrate.run.run_child", lambda *args: pytest.fail("it is run"))
    small = DeviceProfile(name="cpu", kind="cpu", total_bytes=100 * MIB)
    spec = f"{jobs}:job"
    with pytest.raises(UsageError, match="not run"):
        calibrate(load_job(spec), Plan(spec=spec, batch_size=1 << 20), small)


@pytest.mark.torch
def test_steps_run_as_the_trace_takes_them() -> None:
    """Every way of a step: accumulation, scaling, clipping, channels_last, low precision, a step of the user's own."""
    import torch

    import estimator
    from estimator.calibrate.steps import run_steps

    seen: list[torch.dtype] = []

    def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen.append(model(x).dtype)
        return model(x).float().square().mean()

    job = estimator.TrainingJob(
        model=lambda: torch.nn.Conv2d(3, 4, 3), batch=lambda n: torch.randn(n, 3, 8, 8), loss=loss, optimizer="sgd",
        precision="amp-bf16", accumulation_steps=3, grad_clip=1.0, channels_last=True,
    )  # fmt: skip
    model, kept = run_steps(job, 2, 2, "cpu")
    assert seen == [torch.bfloat16] * 6  # two steps of three micro-batches
    weight = next(model.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.grad is not None
    assert weight.grad.norm() <= 1.001
    model, _ = run_steps(job.with_(precision="bf16", mode="inference", optimizer=None), 2, 1, "cpu")
    assert next(model.parameters()).dtype == torch.bfloat16
    assert next(model.parameters()).grad is None
    calls: list[Any] = []
    own = job.with_(loss=None, step=lambda m, o, b: calls.append((type(o).__name__, b.shape[0])))
    run_steps(own.with_(accumulation_steps=1), 5, 2, "cpu")
    assert calls == [("SGD", 5), ("SGD", 5)]


# ------------------------------------------------------------ on a card, through stand-ins


@pytest.mark.torch
@pytest.mark.parametrize("own", [True, False])
def test_the_context_is_what_the_process_takes_less_what_the_allocator_holds(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """A bare context of 300 MiB, 40 MiB more of kernels; the allocator holds 2 MiB and then 500."""
    import torch

    from estimator.calibrate import child

    free = 10 * GIB
    uses = iter((0, 302, 840))

    def read_use(uuid: str, pid: int) -> Use:
        taken = next(uses) * MIB
        return Use(free - taken, taken if own and taken else None)

    stats = {"reserved_bytes.all.current": 500, "reserved_bytes.all.peak": 510, "allocated_bytes.all.peak": 450,
             "requested_bytes.all.peak": 440}  # fmt: skip
    cuda = {
        "synchronize": lambda: None, "empty_cache": lambda: None, "reset_peak_memory_stats": lambda: None,
        "memory_reserved": lambda: 2 * MIB, "memory_stats": lambda: {k: v * MIB for k, v in stats.items()},
        "get_device_properties": lambda index: SimpleNamespace(total_memory=16 * GIB),
    }  # fmt: skip
    for name, answer in cuda.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch, "ones", lambda *a, **k: None)
    monkeypatch.setattr(child, "read_use", read_use)
    monkeypatch.setattr(child, "_blas_workspace", lambda: 8 * MIB)
    monkeypatch.setattr("estimator.calibrate.steps.run_steps", lambda job, n, steps, device: (n, steps, device))
    run = child.on_card(Plan(spec="estimator.calibrate.default_job:job", batch_size=4, card="GPU-1"), "GPU-1")
    assert (run.bare_context_bytes, run.context_bytes) == (300 * MIB, 340 * MIB)
    assert (run.allocated_bytes, run.reserved_bytes, run.on_card_bytes) == (450 * MIB, 510 * MIB, 850 * MIB)
    assert (run.free_before_bytes, run.total_bytes) == (free, 16 * GIB)
    assert run.seen_by == ("this process" if own else "change of what is free")


@pytest.mark.torch
def test_a_driver_whose_figures_make_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process gives 3 GiB back while ours allocates: the card shows less in use than before."""
    import torch

    from estimator.calibrate import child
    from estimator.errors import DeviceError

    free = iter((10 * GIB, 10 * GIB - 302 * MIB, 13 * GIB))
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {"reserved_bytes.all.current": 500 * MIB})
    monkeypatch.setattr(torch, "ones", lambda *a, **k: None)
    monkeypatch.setattr(child, "read_use", lambda uuid, pid: Use(next(free), None))
    monkeypatch.setattr("estimator.calibrate.steps.run_steps", lambda job, n, steps, device: None)
    with pytest.raises(DeviceError, match="less memory for this process"):
        child.on_card(Plan(spec="estimator.calibrate.default_job:job", batch_size=4, card="GPU-1"), "GPU-1")


def card_run(**figures: Any) -> Run:
    usual: dict[str, Any] = dict(
        free_before_bytes=10 * GIB, total_bytes=16 * GIB, bare_context_bytes=300 * MIB, context_bytes=340 * MIB,
        requested_bytes=440 * MIB, allocated_bytes=450 * MIB, reserved_bytes=510 * MIB, on_card_bytes=850 * MIB,
        blas_workspace_bytes=8 * MIB, seen_by="this process",
    )  # fmt: skip
    return Run(**(usual | figures))


CARD = DeviceProfile(
    name="a100-80gb", title="NVIDIA A100-SXM4-80GB (cuda:0, GPU-1)", kind="cuda", total_bytes=17 * GIB,
    free_bytes=10 * GIB, compute_capability=(8, 0), multiprocessor_count=108, context_bytes=500 * MIB,
    context_low_bytes=400 * MIB, sources={"compute_capability": "NVML", "multiprocessor_count": "profile"},
)  # fmt: skip


def calibration(runs: tuple[Run, ...], device: DeviceProfile = CARD, **more: Any) -> Calibration:
    fields: dict[str, Any] = dict(
        device=device, job="train.py:job", batch_size=4, steps=2, torch_version="2.13.0", machine="Node 7",
        date="2026-01-02", runs=runs, compared=(Compared(name="x", predicted_bytes=1, measured_bytes=3, least_bytes=2),),
    )  # fmt: skip
    return Calibration(**(fields | more))


@pytest.mark.pure
def test_of_several_runs_of_a_card_the_largest_counts_and_the_spread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_MODULE_LOADING", raising=False)
    runs = (card_run(), card_run(context_bytes=350 * MIB, bare_context_bytes=302 * MIB, total_bytes=16 * GIB - 1))
    profile = calibrated_profile(calibration(runs))
    assert (profile.context_low_bytes, profile.context_bytes) == (300 * MIB, 350 * MIB)
    assert profile.context_high_bytes == 302 * MIB + LOADED_MODULES_HIGH_BYTES, "other jobs load other kernels"
    assert profile.total_bytes == 16 * GIB - 1
    assert profile.free_bytes is None, "what was free then is nothing that others can use"
    assert (profile.name, profile.title) == ("a100-80gb", "NVIDIA A100-SXM4-80GB"), "so that a card here is known by it"
    assert f"spread {10 * MIB} bytes" in profile.sources["context_bytes"]
    assert f"spread {2 * MIB} bytes" in profile.sources["context_low_bytes"]
    assert "NVML (this process) less reserved" in profile.sources["context_bytes"]
    monkeypatch.setenv("CUDA_MODULE_LOADING", "EAGER")
    eager = calibrated_profile(calibration(runs), "mine")
    assert (eager.name, eager.context_high_bytes) == ("mine", 350 * MIB)
    assert "EAGER" in eager.sources["context_bytes"]


@pytest.mark.pure
def test_the_cpu_takes_the_largest_of_what_lies_beside_the_tensors() -> None:
    """Peaks of 500 and 520 MiB less tensors of 200; loaded are 250, of which the first run needs no more."""
    cpu = DeviceProfile(name="cpu", kind="cpu", total_bytes=8 * GIB, sources={"total_bytes": "limits"})
    runs = (
        Run(loaded_bytes=310 * MIB, resident_peak_bytes=500 * MIB, thread_count=6),
        Run(loaded_bytes=250 * MIB, resident_peak_bytes=520 * MIB, thread_count=6),
        Run(requested_bytes=200 * MIB),
    )
    profile = calibrated_profile(calibration(runs, cpu))
    assert (profile.context_low_bytes, profile.context_bytes, profile.context_high_bytes) == (250 * MIB, 320 * MIB, 320 * MIB)
    assert (profile.name, profile.multiprocessor_count, profile.total_bytes) == ("cpu-node-7", 6, 8 * GIB)
    assert f"spread {10 * MIB} bytes" in profile.sources["context_bytes"]  # 310 and 320


@pytest.mark.pure
@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ((card_run(), card_run(free_before_bytes=9 * GIB)), "other processes use this card"),
        ((card_run(seen_by="change of what is free"),), "calibrate on an idle card"),
        ((card_run(context_bytes=501 * MIB),), "CUDA context after the steps: more was measured than predicted, by 1.00 MiB"),
        ((card_run(reserved_bytes=513 * MIB),), "reserved: more was measured than predicted, by 1.00 MiB, within the high end"),
    ],
)  # fmt: skip
def test_what_is_not_as_predicted_or_not_certain_is_told(runs: tuple[Run, ...], words: str) -> None:
    line = dict(peak_requested_bytes=440 * MIB, peak_allocated_bytes=450 * MIB, peak_reserved_bytes=512 * MIB)
    later = SimpleNamespace(name="step2.forward", **dict.fromkeys(line, GIB))  # a step that is not run
    at: Any = SimpleNamespace(
        phase_lines=(SimpleNamespace(name="step1.backward", **line), later),
        device_interval=SimpleNamespace(high_bytes=GIB + 600 * MIB),
    )
    answer: Any = SimpleNamespace(device=CARD, torch_version="2.13.0")
    compared = list(_on_card(answer, at, Plan(spec="x", batch_size=4), list(runs)))
    told = list(_notes(compared, list(runs)))
    assert any(words in note for note in told)
    quiet = list(_notes(list(_on_card(answer, at, Plan(spec="x", batch_size=4), [card_run()])), [card_run()]))
    assert quiet == []


@pytest.mark.pure
@pytest.mark.parametrize(("device", "uuid"), [("cuda:1", "GPU-two"), ("cuda", "GPU-one"), (None, "GPU-one")])
def test_the_card_is_named_by_its_uuid(monkeypatch: pytest.MonkeyPatch, device: str | None, uuid: str) -> None:
    """CUDA, NVML and CUDA_VISIBLE_DEVICES may each count cards in another order."""
    from estimator.commands.calibrate import device_here
    from estimator.devices import here
    from estimator.devices.nvml import Card

    cards = [Card(n, name, "NVIDIA A100-SXM4-80GB", 80 * GIB, GIB, 70 * GIB, (8, 0), 6912) for n, name in
             enumerate(("GPU-hidden", "GPU-one", "GPU-two"))]  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    monkeypatch.setattr(here, "read_cards", lambda: cards)
    profile, card = device_here(device, None)
    assert card == uuid
    assert profile.name == "a100-80gb"


@pytest.mark.pure
def test_a_card_of_this_machine_is_known_by_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from estimator.devices import gpus_here, here
    from estimator.devices.nvml import Card

    card = Card(0, "GPU-1", "NVIDIA A100-SXM4-80GB", 80 * GIB, GIB, 70 * GIB, (8, 0), 6912)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(here, "read_cards", lambda: [card])
    found = calibration((card_run(),))
    profile = calibrated_profile(found)
    write_profile(tmp_path / "mine.toml", profile_text(found, profile))
    (known,), (measured,) = gpus_here(), gpus_here(tmp_path)
    assert measured.context_bytes == 340 * MIB != known.context_bytes
    assert (measured.context_low_bytes, measured.context_high_bytes) == (300 * MIB, 300 * MIB + LOADED_MODULES_HIGH_BYTES)
    assert measured.free_bytes == 70 * GIB


@pytest.mark.pure
def test_only_what_is_here_can_be_measured() -> None:
    done = CliRunner().invoke(app, ["calibrate", "--device", "l4"])
    assert done.exit_code == 2
    assert "only a device of this machine" in done.stderr


# ------------------------------------------------------------ the file


@pytest.mark.pure
def test_the_file_is_read_as_any_profile(tmp_path: Path) -> None:
    found = calibration((card_run(),), notes=('with "quotes"\nand a line',))
    profile = calibrated_profile(found, "mine")
    path = tmp_path / "other.toml"
    write_profile(path, profile_text(found, profile))
    assert read_profile(path) == profile
    assert path.read_text().startswith("# Made by `batch-estimator calibrate`")
    assert [p.name for p in tmp_path.iterdir()] == ["other.toml"]


@pytest.mark.pure
def test_a_file_that_is_there_is_replaced_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("precious")
    with pytest.raises(UsageError, match="there already"):
        write_profile(path, "new")
    assert path.read_text() == "precious"
    write_profile(path, "new", force=True)
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.pure
def test_one_that_appears_meanwhile_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from estimator.calibrate import profile as module

    path = tmp_path / "mine.toml"
    checks = []

    def first_time_absent(where: Path, force: bool) -> None:
        checks.append(where)
        if len(checks) == 1:
            path.write_text("precious")  # just after the look
            return
        raise UsageError("the profile is there already")

    monkeypatch.setattr(module, "check_absent", first_time_absent)
    with pytest.raises(UsageError):
        write_profile(path, "new")
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.pure
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the profile"):
        write_profile(tmp_path / "no folder" / "mine.toml", "new")


@pytest.mark.pure
def test_the_calibration_table_alone_makes_no_profile(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[calibration]\njob = 'x'\n")
    with pytest.raises(UsageError, match="not valid"):
        read_profile(path)
