"""A plan is read whole: what cannot be is named all at once, each with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.errors import ConfigError
from estimator.plan.cells import groups_of, varying
from estimator.plan.config import Plan, read_plan

pytestmark = pytest.mark.pure

GOOD = """
devices = ["l4", "a100-80gb"]
torch_version = "2.11.0"
[[jobs]]
name = "gpt"
job = "train.py:job"
precision = ["fp32", "amp-bf16"]
sequence_length = 512
"""


def written(folder: Path, text: str) -> Path:
    (folder / "train.py").write_text("job = None\n")
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_plan(written(folder, text))
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def plan_of(folder: Path, text: str = GOOD) -> Plan:
    return read_plan(written(folder, text))


def test_a_plan_is_read(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert [d.name for d in plan.devices] == ["l4", "a100-80gb"]
    assert plan.jobs[0].settings == {"precision": ("fp32", "amp-bf16"), "sequence_length": (512,)}
    assert varying(plan) == ("precision", "sequence_length")


def test_every_problem_is_named_at_once_with_its_path(tmp_path: Path) -> None:
    text = """
devices = ["a100-81gb", "l4", "l4"]
global_batch = 0
budget = -1
colour = "red"
[prices]
h100 = 2
[[jobs]]
name = "one"
job = "trian.py:job"
precision = ["fp32", "fp33"]
[[jobs]]
name = "one"
job = "train.py:job"
precison = "fp32"
sequence_length = []
image_size = 0
[[jobs]]
precision = "fp32"
"""
    problems = problems_of(tmp_path, text)
    starts = [
        "colour: unknown, known are ",
        "devices[0]: no device has that name; got 'a100-81gb'; did you mean a100-80gb",
        "devices[2]: 'l4' is named twice",
        "jobs[0].precision[1]: Input should be 'fp32'",
        "jobs[0].job: there is no file 'trian.py' in ",
        "jobs[1].precison: unknown, did you mean precision?",
        "jobs[1].sequence_length: an empty list",
        "jobs[1].image_size: Input should be greater than or equal to 1 (got 0)",
        "jobs[2].name: must be given",
        "jobs[2].job: must be given",
        "jobs[1].name: 'one' is the name of an earlier job",
        "prices.h100: not among devices",
        "budget: an amount of money an hour, above 0 (got -1)",
        "global_batch: Input should be greater than or equal to 1 (got 0)",
    ]
    for start in starts:
        assert [p for p in problems if p.startswith(start)], (start, problems)
    assert len(problems) == len(starts), problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "devices: must be given"),
        ('devices = "l4"', "devices: a list of names (got 'l4')"),
        ("devices = []", "devices: a list of names (got [])"),
        ('devices = ["l4"]', "jobs: no job is named"),
        ('devices = ["l4"]\njobs = ["a"]', "jobs[0]: a job is a table"),
        ('devices = ["l4"]\nprices = 3', "prices: a table"),
        (GOOD.replace("[[jobs]]", "budget = 4.0\n[[jobs]]"), "budget: says nothing without [prices]"),
        (GOOD.replace('"2.11.0"', '"new"'), "torch_version: not a version of torch"),
        (GOOD.replace("512", "true"), "jobs[0].sequence_length"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert any(p.startswith(problem) for p in problems_of(tmp_path, text)), problems_of(tmp_path, text)


def test_what_is_no_toml_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not TOML") as caught:
        read_plan(written(tmp_path, "devices = [\n"))
    assert "at end of document" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_plan(tmp_path / "none.toml")


def test_cells_are_the_product_in_order(tmp_path: Path) -> None:
    groups = groups_of(plan_of(tmp_path, GOOD.replace("= 512", "= 512\nalloc_conf = ['', 'expandable_segments:True']")))
    # 2 precisions x 1 length, and in each 2 allocators x 2 devices: what the allocator does needs no other trace.
    assert [g.settings for g in groups] == [
        {"precision": "fp32", "sequence_length": 512},
        {"precision": "amp-bf16", "sequence_length": 512},
    ]
    assert [[(c.settings["alloc_conf"], c.device.name) for c in g.cells] for g in groups] == 2 * [
        [("", "l4"), ("", "a100-80gb"), ("expandable_segments:True", "l4"), ("expandable_segments:True", "a100-80gb")]
    ]
    keys = [c.key for g in groups for c in g.cells]
    assert len(set(keys)) == len(keys) == 8


def keys(folder: Path, text: str = GOOD) -> list[str]:
    return [cell.key for group in groups_of(plan_of(folder, text)) for cell in group.cells]


def test_a_key_changes_with_what_the_answer_hangs_on_and_with_nothing_else(tmp_path: Path) -> None:
    before = keys(tmp_path)
    assert keys(tmp_path) == before
    assert keys(tmp_path, GOOD.replace('"gpt"', '"another name"')) == before
    assert keys(tmp_path, "title = 'x'\n" + GOOD) == before
    for changed in ("512", "2.11.0"):
        assert not set(keys(tmp_path, GOOD.replace(changed, changed.replace("1", "2")))) & set(before)
    fewer = keys(tmp_path, GOOD.replace('"fp32", ', ""))
    assert set(fewer) < set(before)


def test_a_key_changes_with_the_files_that_the_job_imports(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import layers.attention\n")
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").write_text("from . import norm\n")
    (tmp_path / "layers" / "attention.py").write_text("")
    (tmp_path / "layers" / "norm.py").write_text("")
    (tmp_path / "other.py").write_text("")

    def now() -> list[str]:
        path = tmp_path / "plan.toml"
        path.write_text(GOOD)
        (tmp_path / "train.py").write_text("def job():\n    from model import Net\n")
        return [cell.key for group in groups_of(read_plan(path)) for cell in group.cells]

    before = now()
    (tmp_path / "other.py").write_text("changed = 1")
    assert now() == before
    for name in ("model.py", "layers/__init__.py", "layers/attention.py", "layers/norm.py"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "\nchanged = 1\n")
        assert not set(now()) & set(before), name
        (tmp_path / name).write_text(text)
    assert now() == before


def test_a_moved_plan_keeps_its_keys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert keys(tmp_path / "a") == keys(tmp_path / "b")
