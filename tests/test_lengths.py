"""Lengths of a data set: shares of batches against brute force, few traces, real jobs, the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from test_data_samples import Texts, collate
from torch import nn
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import estimator
from estimator.cli import app
from estimator.data import points as solving
from estimator.data.records import Asked, Lengths, Point
from estimator.device import DeviceProfile
from estimator.errors import CannotPredictError, EstimatorError

pytestmark = pytest.mark.torch

SMALL = DeviceProfile(
    name="small", kind="cuda", total_bytes=24 << 20, context_bytes=0, compute_capability=(8, 0),
    multiprocessor_count=108,
)  # fmt: skip
CAPACITY = 1000
"""Of the made-up device: bytes, where one token takes one."""


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Solve sizes by arithmetic: `CAPACITY` tokens fit. Gives the sizes in the order they were asked for."""
    order: list[int] = []

    def solve(job_at: Any, devices: Any, settings: Any, asked: Any, size: int) -> tuple[Point, ...]:
        order.append(size)
        batches = tuple(
            Asked(batch_size=n, fits=n * size <= CAPACITY, peak_requested_bytes=n * size, device_bytes=n * size)
            for n in asked.get(size, ())
        )
        return (Point(size=size, device="small", max_batch_size=CAPACITY // size, asked=batches),)

    monkeypatch.setattr(solving, "_solved", solve)
    return order


def job(batch: Any = None) -> estimator.TrainingJob:
    return estimator.TrainingJob(
        model=lambda: nn.Embedding(9, 64), batch=batch or (lambda n, length: torch.randint(9, (n, length))),
        loss=lambda model, x: model(x["ids"] if isinstance(x, dict) else x).square().mean(), optimizer="sgd",
        name="net",
    )  # fmt: skip


def refused(call: Any) -> str:
    with pytest.raises(EstimatorError) as caught:
        call()
    assert caught.value.exit_code == 2
    return str(caught.value)


DATA = [10, 40, 40, 80, 90, 100, 120, 150, 200, 300]


def test_the_share_of_batches_that_run_out_is_that_of_all_there_are(solved: list[int]) -> None:
    for size in (4, 7, 10):
        found = estimator.lengths(job(), DATA, SMALL, batch_size=size, points=20)
        batches = list(combinations(DATA, size))
        out = sum(len(batch) * max(batch) > CAPACITY for batch in batches) / len(batches)
        assert found.asked is not None
        assert found.asked.low == found.asked.high == pytest.approx(out)
        longest = sum(map(max, batches)) / len(batches)
        assert found.asked.expected_longest == pytest.approx(longest)


def test_the_largest_batches_and_their_shares(solved: list[int]) -> None:
    found = estimator.lengths(job(), DATA, SMALL, percentiles=[50, 90], points=20)
    # 1000 // 90, 1000 // 200, 1000 // 300
    rows = [(row.percentile, row.length, row.max_batch_size) for row in found.rows]
    assert rows == [(50, 90, 11), (90, 200, 5), (100, 300, 3)]
    # Of 5 of the ten, those with the one of 300: 5 in 10. Of 3, none.
    shares = [row.share for row in found.rows]
    assert shares[1] is not None
    assert shares[1].low == shares[1].high == pytest.approx(0.5)
    assert shares[2] is not None
    assert shares[2].high == 0
    assert found.fits


def test_few_lengths_are_traced_and_none_twice(solved: list[int]) -> None:
    lengths = list(range(1, 1001))
    found = estimator.lengths(job(), lengths, SMALL, batch_size=7, points=12)
    assert len(solved) == len(set(solved)) == 12
    assert found.asked is not None
    # 7 x 142 is 994, 7 x 143 is 1001.
    assert (found.asked.longest_that_fits, found.asked.shortest_that_does_not) == (142, 143)
    assert found.asked.exact


def test_with_too_few_traces_the_share_is_an_interval(solved: list[int]) -> None:
    lengths = list(range(1, 1001))
    exact = estimator.lengths(job(), lengths, SMALL, batch_size=7).asked
    rough = estimator.lengths(job(), lengths, SMALL, batch_size=7, points=3).asked
    assert exact is not None
    assert rough is not None
    assert not rough.exact
    assert rough.low < exact.low < rough.high


def test_the_worst_batch_decides(solved: list[int]) -> None:
    for size, fits in ((3, True), (4, False)):
        found = estimator.lengths(job(), DATA, SMALL, batch_size=size)
        assert found.worst is not None
        assert (found.worst.batch_size, found.worst.length, found.worst.padded) == (size, 300, size * 300)
        assert found.worst.fits is found.fits is fits


def test_batches_of_a_sampler_are_counted_one_by_one(solved: list[int]) -> None:
    batches = [[0, 1, 2, 3, 4, 5], [6, 7, 8, 3, 4], [9, 0, 1, 2], [9]]  # 6 x 100, 5 x 200, 4 x 300, 1 x 300
    found = estimator.lengths(job(), DATA, SMALL, sampler=batches)
    assert found.epoch is not None
    assert (found.epoch.batch_count, found.epoch.most_padded) == (4, 1200)
    assert (found.epoch.out_of_memory_count, found.epoch.unknown_count) == (1, 0)
    assert found.worst is not None
    assert (found.worst.batch_size, found.worst.length, found.worst.fits) == (4, 300, False)
    assert not found.fits
    assert found.asked is None


def test_tokens_of_a_batch(solved: list[int]) -> None:
    found = estimator.lengths(job(), DATA, SMALL, points=20)
    assert found.tokens is not None
    # Every length is traced: least of (n + 1) x L - 1. At 10: 101 x 10; 40: 26 x 40; 90: 12 x 90; 100: 11 x 100; ...
    assert found.tokens.max_tokens == found.tokens.certain_tokens == min((1000 // x + 1) * x - 1 for x in DATA)


def test_lengths_that_contradict_are_said_and_nothing_is_concluded(monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(job_at: Any, devices: Any, settings: Any, asked: Any, size: int) -> tuple[Point, ...]:
        return (Point(size=size, device="small", max_batch_size=5 if size % 2 else 9),)

    monkeypatch.setattr(solving, "_solved", solve)
    # Of the six lengths 1 (too small for 6), 2 (large enough) and 6 (large enough) are traced.
    found = estimator.lengths(job(), [1, 2, 3, 4, 5, 6], SMALL, batch_size=3, percentiles=[34], points=1)
    assert [p.size for p in found.points] == [1, 3, 6]
    assert not found.monotone
    assert [w.code for w in found.warnings] == ["not-monotone-in-length"]
    assert "samples of 6 leave room for 9 of a batch, shorter ones of 3 for 5" in found.warnings[0].message
    # A batch of 6 of them all has the one of 6, and fits; of 5 to 9 samples only where the longest is known.
    asked = estimator.lengths(job(), [1, 2, 3, 4, 5, 6], SMALL, batch_size=6, percentiles=[34], points=1).asked
    assert asked is not None
    assert asked.low == asked.high == 0


def test_the_longest_must_be_predicted_and_others_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = [300]

    def solve(job_at: Any, devices: Any, settings: Any, asked: Any, size: int) -> tuple[Point, ...]:
        if size in fails:
            return (Point(size=size, device="small", error="no\nnumber"),)
        return (Point(size=size, device="small", max_batch_size=CAPACITY // size),)

    monkeypatch.setattr(solving, "_solved", solve)
    with pytest.raises(CannotPredictError, match="longest") as caught:
        estimator.lengths(job(), DATA, SMALL)
    assert caught.value.exit_code == 3
    fails[:] = [120]
    found = estimator.lengths(job(), DATA, SMALL, batch_size=9, points=20)
    assert [(w.code, w.where) for w in found.warnings] == [("length-not-predicted", "120")]
    assert found.asked is not None
    assert (found.asked.longest_that_fits, found.asked.shortest_that_does_not) == (100, 150)
    # Of 9 of ten always two of the four above 100, and the longest is 300 in 9 of 10, else 200.
    assert found.asked.low == found.asked.high == 1


# ------------------------------------------------------------ real jobs


@pytest.fixture(scope="module")
def on_data() -> Lengths:
    data = Texts([30, 100, 700, 60, 400, 100, 10, 250])
    return estimator.lengths(job(DataLoader(data, 4, shuffle=True, collate_fn=collate)), device=SMALL, points=5)


def test_a_loader_is_all_it_takes(on_data: Lengths) -> None:
    assert on_data.over == "length"
    assert (on_data.data.count, on_data.data.shortest, on_data.data.longest) == (8, 10, 700)
    assert on_data.batch_size == 4
    assert on_data.asked is not None
    assert on_data.asked.exact
    assert on_data.worst is not None
    assert on_data.worst.length == 700


def test_a_point_is_what_the_job_at_that_length_gets(on_data: Lengths) -> None:
    alone = estimator.estimate(job().sized(700), SMALL, cross_check=False)
    point = next(p for p in on_data.points if p.size == 700)
    # The loader's batch has the labels too, 8 bytes a sample on the device as 512.
    assert point.max_batch_size is not None
    assert abs(point.max_batch_size - alone.max_batch_size) <= 1
    assert alone.next is not None
    assert point.sample_bytes == alone.next.peak_requested_bytes - alone.best.peak_requested_bytes + 8


def test_a_model_that_cannot_take_the_longest_is_told_first(solved: list[int]) -> None:
    def make(length: int) -> estimator.TrainingJob:
        if length > 200:
            raise estimator.EstimatorError("too long", hint="give less")
        return job().sized(length)

    with pytest.raises(EstimatorError, match="too long"):
        estimator.lengths(make, DATA, SMALL)
    assert solved == []


def test_questions_that_are_not_well_put() -> None:
    assert "percentiles" in refused(lambda: estimator.lengths(job(), DATA, SMALL, percentiles=[0]))
    assert "points=0" in refused(lambda: estimator.lengths(job(), DATA, SMALL, points=0))
    assert "more samples than the data" in refused(lambda: estimator.lengths(job(), DATA, SMALL, batch_size=11))
    assert "rows hold no length" in refused(lambda: estimator.lengths(job(), [3, 0], SMALL))
    assert "empty" in refused(lambda: estimator.lengths(job(), [], SMALL))
    data = Texts([3, 5])
    assert "collated as they are" in refused(lambda: estimator.lengths(job(data), device=SMALL, max_length=4))


# ------------------------------------------------------------ the command

FILE = """
import torch, estimator
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Data(Dataset):
    def __len__(self): return 3
    def __getitem__(self, i): return torch.ones([1000, 3000, 2000][i], 8)

def pad(samples): return nn.utils.rnn.pad_sequence(samples, batch_first=True)

def make(batch):
    return estimator.TrainingJob(
        model=lambda: nn.Linear(8, 8), batch=batch, loss=lambda model, x: model(x).square().mean(), optimizer="sgd",
    )

job = make(lambda n, length: torch.randn(n, length, 8))
loader = make(DataLoader(Data(), 2, collate_fn=pad))
fixed = make(lambda n: torch.randn(n, 9, 8))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(FILE)
    (tmp_path / "data.csv").write_text("id,tokens\n1,1000\n2,3000\n3,2000\n")
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in (*arguments, "--device", "l4")])


@pytest.mark.parametrize(
    "arguments",
    [
        lambda file: [f"{file}:job", "--lengths", f"{file.parent}/data.csv:tokens", "--batch-size", 2],
        lambda file: [f"{file}:loader", "--lengths", f"{file.parent}/data.csv:tokens"],
        lambda file: [f"{file}:loader"],
    ],
)
def test_the_command_takes_a_column_or_the_jobs_own_data(file: Path, arguments: Callable[[Path], list[Any]]) -> None:
    result = run("lengths", *arguments(file), "--json", "-q", "--points", 2)
    assert result.exit_code == 0, result.stderr
    found = Lengths.model_validate(json.loads(result.stdout))
    assert (found.data.count, found.data.longest, found.batch_size) == (3, 3000, 2)
    assert found.rows[-1].max_batch_size


def test_the_command_prints_what_was_found(file: Path, solved: list[int]) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    plot = file.parent / "lengths.svg"
    column = f"{file.parent}/data.csv:tokens"
    result = run("lengths", f"{file}:job", "--lengths", column, "-b", 2, "--max-length", 600, "--plot", plot)
    assert result.exit_code == 1, result.stderr  # 2 x 600 are more than there is
    for words in ("3 are cut", "all of the random ones run out", "worst batch", "max_tokens", "Traced at 1 lengths"):
        assert words in result.stdout
    assert plot.read_text().startswith("<?xml")


def test_the_command_writes_a_page(file: Path, solved: list[int]) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    page = file.parent / "lengths.html"
    result = run("lengths", f"{file}:job", "--lengths", f"{file.parent}/data.csv:tokens", "--html", page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "data.csv:tokens</h1>" in text
    assert 'id="histogram"' in text
    assert '"histogram":[[1000,' in text.replace(" ", "")
    assert result.exit_code == 1  # not one sample of 3,000 fits where there is room for 1,000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["job"], "nothing says how long the samples are"),
        (["job", "--lengths", "data.csv:token"], "did you mean tokens?"),
        (["job", "--lengths", "data.csv"], "several columns"),
        (["job", "--lengths", "date.csv:tokens"], "did you mean data.csv?"),
        (["job", "--lengths", "data.csv:tokens", "--sequence-length", "3"], "one length"),
        (["job", "--lengths", "data.csv:tokens", "--over", "frams"], "did you mean frames?"),
        (["fixed", "--lengths", "data.csv:tokens"], "does not take sequence_length"),
        (["loader", "--column", "ids"], "no such part"),
        (["job", "--lengths", "data.csv:tokens", "--html", "page.svg"], "another ending"),
        (["job", "--lengths", "data.csv:tokens", "--html", "nowhere/page.html"], "folder"),
    ],
)
def test_bad_questions_are_exit_code_2(
    file: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(file.parent)
    result = run("lengths", f"train.py:{arguments[0]}", *arguments[1:])
    assert result.exit_code == 2, result.stdout
    assert words in result.stderr


def test_a_sequence_longer_than_the_positions_names_the_way_to_cut(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="its GPT-2 has 1024 positions")
    path = tmp_path / "a.txt"
    path.write_text("10\n1500\n")
    result = run("lengths", "hf:gpt2", "--lengths", path)
    assert result.exit_code == 2
    assert "longer than the model's positions" in result.stderr
    assert "--max-length N" in result.stderr
