"""The largest batch by length: each size is its own trace, and says what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

import estimator
from estimator.cli import app
from estimator.data.points import Points, Settings
from estimator.device import DeviceProfile
from estimator.errors import EstimatorError, JobError

pytestmark = pytest.mark.torch

SMALL = DeviceProfile(
    name="small", kind="cuda", total_bytes=64 << 20, context_bytes=0, compute_capability=(8, 0),
    multiprocessor_count=108,
)  # fmt: skip
LARGE = SMALL.model_copy(update={"name": "large", "total_bytes": 256 << 20})


class Pairs(nn.Module):
    """Keeps a matrix of all pairs of tokens, as eager attention does: bytes of a sample grow as the square."""

    def __init__(self, positions: int = 0) -> None:
        super().__init__()
        self.token = nn.Embedding(50, 16)
        self.position = nn.Embedding(positions, 16) if positions else None

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        if self.position is not None:
            x = x + self.position(torch.arange(ids.shape[1], device=ids.device))
        return (x @ x.transpose(1, 2)).softmax(-1) @ x


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    return F.mse_loss(model(ids), torch.zeros_like(model.token.weight[:1, :1]))  # type: ignore[union-attr, index]


def job(length: int | None = None, **more: Any) -> estimator.TrainingJob:
    batch = (lambda n, length: torch.randint(50, (n, length))) if length is None else (
        lambda n: torch.randint(50, (n, length))
    )  # fmt: skip
    fields: dict[str, Any] = dict(model=Pairs, batch=batch, loss=loss, optimizer="sgd", name="pairs")
    return estimator.TrainingJob(**(fields | more))


def refused(call: Any) -> str:
    with pytest.raises(EstimatorError) as caught:
        call()
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture(scope="module")
def found() -> estimator.Frontier:
    return estimator.frontier(job(), [256, 64, 128, 64], [SMALL, LARGE])


def test_each_point_is_what_the_job_at_that_size_gets(found: estimator.Frontier) -> None:
    assert found.sizes == (64, 128, 256)
    assert [(p.device, p.size) for p in found.points] == [(d, s) for d in ("small", "large") for s in found.sizes]
    for point in (found.on("small")[0], found.on("large")[2]):
        device = SMALL if point.device == "small" else LARGE
        alone = estimator.estimate(job(point.size), device, cross_check=False)
        assert point.max_batch_size == alone.max_batch_size
        assert point.peak_requested_bytes == alone.best.peak_requested_bytes
        assert point.peak_reserved_bytes == alone.best.peak_reserved_bytes
        half = alone.max_batch_size // 2
        grown = alone.best.peak_requested_bytes - alone.at(half).peak_requested_bytes
        assert point.sample_bytes == round(grown / (alone.max_batch_size - half))
        assert point.confirmed_at is not None


def test_growth_is_told_as_a_power_of_the_size(found: estimator.Frontier) -> None:
    # A pair of softmax and its input, and gradients, of L x L floats beside rows of 16 L: towards the square.
    powers = found.growth("small")
    assert list(powers) == [128, 256]
    assert 1.5 < powers[128] < powers[256] < 2


def test_a_function_of_the_size_is_the_same(found: estimator.Frontier) -> None:
    again = estimator.frontier(job, [128], SMALL)
    assert again.points[0].max_batch_size == found.on("small")[1].max_batch_size


@pytest.mark.slow
def test_sizes_are_solved_in_other_processes_too(found: estimator.Frontier) -> None:
    pytest.importorskip("joblib", reason="it runs them")
    told: list[tuple[int, int]] = []
    again = estimator.frontier(
        job(), [64, 128], SMALL, workers=2, advance=lambda done, total, _: told.append((done, total))
    )
    # A larger device beside it confirmed the other points at its own batch.
    strip = {"seconds", "warnings", "confirmed_at"}
    assert [p.model_dump(exclude=strip) for p in again.points] == [
        p.model_dump(exclude=strip) for p in found.on("small")[:2]
    ]
    assert told == [(1, 2), (2, 2)]


def test_no_size_that_was_traced_is_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from estimator.data import points as module

    solved: list[int] = []
    monkeypatch.setattr(module, "_solved", lambda job_at, devices, settings, asked, size: solved.append(size) or ())
    points = Points(job, [SMALL], Settings("length"))
    points.solve([64, 128, 64])
    points.solve([128, 256])
    assert solved == [64, 128, 256]


def test_a_sequence_longer_than_the_positions_is_refused() -> None:
    text = refused(lambda: estimator.frontier(job(model=lambda: Pairs(100)), [64, 128], SMALL))
    assert "row 127" in text
    assert "0 to 99" in text
    assert "sequence_length 128; module position" in text


def test_a_size_that_cannot_be_predicted_is_a_point_with_its_reason() -> None:
    def reads_values(model: nn.Module, ids: Tensor) -> Tensor:
        out = loss(model, ids)
        return out * 2 if ids.shape[1] > 100 and out.item() > 0 else out

    found = estimator.frontier(job(loss=reads_values), [64, 128], SMALL)
    assert found.points[0].max_batch_size
    assert found.points[1].max_batch_size is None
    assert "values that only a real run has" in found.points[1].error
    assert found.growth("small") == {}


def test_questions_that_are_not_well_put() -> None:
    assert "none" in refused(lambda: estimator.frontier(job(), [], SMALL))
    assert "whole numbers" in refused(lambda: estimator.frontier(job(), [64, 0, -1], SMALL))
    assert "named twice" in refused(lambda: estimator.frontier(job(), [64], [SMALL, SMALL]))
    assert "lambda n, length" in refused(lambda: estimator.frontier(job(64), [64], SMALL))
    assert "did you mean sequence-length?" in refused(
        lambda: estimator.frontier("x.py:job", [64], SMALL, over="sequence_lenght")
    )
    with pytest.raises(JobError, match="no job"):
        estimator.frontier(7, [64], SMALL)  # type: ignore[arg-type]


def test_a_batch_that_takes_a_length_needs_one() -> None:
    text = refused(lambda: estimator.estimate(job(), SMALL, cross_check=False))
    assert "--sequence-length N, job.sized(N)" in text


# ------------------------------------------------------------ the command

FILE = """
import torch, estimator
from torch import nn

job = estimator.TrainingJob(
    model=lambda: nn.Linear(8, 8), batch=lambda n, length: torch.randn(n, length, 8),
    loss=lambda model, x: model(x).square().mean(), optimizer="sgd",
)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(FILE)
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_prints_a_table_and_draws_it(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    plot = tmp_path / "frontier.svg"
    result = run("frontier", f"{file}:job", "--over", "sequence-length=1000,2000", "-d", "l4", "-d", "t4", "--plot", plot)
    assert result.exit_code == 0, result.stderr
    assert "on l4" in result.stdout
    assert "on t4" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines() if line.split()[:1] in (["1000"], ["2000"])]
    assert [line[0] for line in lines] == ["1000", "2000"] * 2
    assert plot.read_text().startswith("<?xml")


def test_the_command_writes_a_page(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    page = tmp_path / "frontier.html"
    result = run("frontier", f"{file}:job", "--over", "sequence-length=1000,2000", "-d", "l4", "-d", "t4", "--html", page)
    assert result.exit_code == 0, result.stderr
    text = page.read_text(encoding="utf-8")
    for words in ("On l4", "On t4", 'id="largest"', 'id="heatmap"', 'id="sample"'):
        assert words in text


def test_without_plotly_the_install_line_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "plotly" else find(name, *a))
    result = run("frontier", f"{file}:job", "--device", "l4", "--over", "sequence-length=3", "--html", "x.html")
    assert result.exit_code == 2
    assert "plotly" in result.stderr
    assert "batch-estimator[plan]" in result.stderr


def test_the_command_prints_json(file: Path) -> None:
    result = run("frontier", f"{file}:job", "--over", "sequence-length=1000", "--device", "l4", "--json", "-q")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["over"], document["sizes"], document["devices"]) == ("sequence_length", [1000], ["l4"])
    assert estimator.Frontier.model_validate(document).points[0].max_batch_size > 0  # type: ignore[operator]


def test_nothing_fits_is_exit_code_1(file: Path) -> None:
    result = run("frontier", f"{file}:job", "--over", "sequence-length=10000000", "--device", "l4", "--memory", "300MiB")
    assert result.exit_code == 1, result.stderr
    assert "does not fit" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--over", "sequence-length"], "NAME=N,N"),
        (["--over", "sequence-length=1,x"], "NAME=N,N"),
        (["--over", "sequence-length=0"], "whole numbers of 1 or more"),
        (["--over", "image-sise=3"], "did you mean image-size?"),
        (["--over", "image-size=3"], "does not take image_size"),
        (["--over", "sequence-length=3", "--sequence-length", "4"], "given twice"),
        (["--over", "sequence-length=3", "--plot", "x.pdf"], ".svg or .png"),
        (["--over", "sequence-length=3", "--plot", "nowhere/x.svg"], "folder"),
    ],
)
def test_bad_questions_are_exit_code_2(file: Path, arguments: list[str], words: str) -> None:
    result = run("frontier", f"{file}:job", "--device", "l4", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_without_matplotlib_the_install_line_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    result = run("frontier", f"{file}:job", "--device", "l4", "--over", "sequence-length=3", "--plot", "x.svg")
    assert result.exit_code == 2
    assert "batch-estimator[plots]" in result.stderr
