"""Jobs of the user's own: `package.module:attr` and `path/to/file.py:attr`."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
import torch

from estimator.errors import SourceError
from estimator.sources import JobOptions, load_job

pytestmark = pytest.mark.torch

JOB = """
import torch
from torch import nn
from estimator import TrainingJob

def make(width=4):
    return TrainingJob(model=lambda: nn.Linear(width, 2), batch=lambda n: torch.randn(n, width),
                       loss=lambda m, x: m(x).sum(), optimizer="sgd")

job = make()
"""


def write(folder: Path, text: str, name: str = "train.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def message(spec: str, options: JobOptions | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        load_job(spec, options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_job_and_a_function_that_returns_one_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, JOB)
    for attribute in ("job", "make"):
        job = load_job(f"{path}:{attribute}")
        assert job.name == f"{path}:{attribute}"
        assert job.model().weight.shape == (2, 4)


def test_a_file_without_an_attribute_means_its_job(tmp_path: Path) -> None:
    assert load_job(str(write(tmp_path, JOB))).optimizer == "sgd"


def test_a_module_is_found_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "my_jobs_of_a_test", "", "__init__.py")
    write(tmp_path / "my_jobs_of_a_test", JOB)
    monkeypatch.chdir(tmp_path)
    assert load_job("my_jobs_of_a_test.train:job").optimizer == "sgd"
    assert "my_jobs_of_a_test" not in sys.modules


def test_loading_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, "VALUE = 3\n", "sibling_of_a_test.py")
    disturbing = """
import os, random, sys, torch
import sibling_of_a_test
os.environ["SET_BY_A_TEST"] = "1"; os.chdir("/"); random.seed(0); torch.manual_seed(0); sys.path.append("/nowhere")
"""
    path = write(tmp_path, JOB + disturbing)
    torch.manual_seed(7)
    before = list(sys.path), list(sys.argv), os.getcwd(), dict(os.environ), random.getstate(), torch.get_rng_state()
    modules = set(sys.modules)
    load_job(f"{path}:job")
    after = list(sys.path), list(sys.argv), os.getcwd(), dict(os.environ), random.getstate(), torch.get_rng_state()
    assert before[:5] == after[:5]
    assert torch.equal(before[5], after[5])
    assert not [m for m in set(sys.modules) - modules if not m.startswith("estimator")]


def test_what_a_function_imports_when_called_is_found_although_the_folder_is_off_the_path(tmp_path: Path) -> None:
    for folder, width in (("a", 3), ("b", 5)):
        write(tmp_path / folder, f"WIDTH = {width}\n", "sizes_of_a_test.py")
        lazy = JOB + "\ndef lazy():\n    def model():\n        from sizes_of_a_test import WIDTH\n"
        lazy += "        return nn.Linear(WIDTH, 1)\n    return job.with_(model=model)\n"
        write(tmp_path / folder, lazy)
    first, second = load_job(f"{tmp_path}/a/train.py:lazy"), load_job(f"{tmp_path}/b/train.py:lazy")
    assert (first.model().in_features, second.model().in_features) == (3, 5)
    assert "sizes_of_a_test" not in sys.modules


def test_a_script_that_parses_arguments_gets_its_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["batch-estimator", "predict", "--device", "t4"])
    parsing = "import argparse\np = argparse.ArgumentParser(); p.add_argument('--lr', default=1)\np.parse_args()\n"
    assert load_job(str(write(tmp_path, parsing + JOB))).optimizer == "sgd"


def test_options_are_the_parameters_of_the_function_or_fields_of_the_job(tmp_path: Path) -> None:
    text = JOB + "\ndef sized(image_size=8):\n    return make(image_size)\n"
    path = write(tmp_path, text)
    job = load_job(f"{path}:sized", JobOptions(image_size=6, precision="bf16", accumulation_steps=2, notes=("said",)))
    assert job.model().in_features == 6
    assert (job.precision, job.accumulation_steps, job.notes) == ("bf16", 2, ("said",))


def test_an_option_that_nothing_takes_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, JOB)
    text = message(f"{path}:make", JobOptions(image_size=6))
    assert "does not take image_size" in text
    assert "train.py:6" in text


def test_frozen_parameters_get_no_gradient_and_a_live_model_is_not_touched(tmp_path: Path) -> None:
    text = JOB + "\nlive = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))\nkept = job.with_(model=live)\n"
    path = write(tmp_path, text + "def model(): return live\n")
    model = load_job(f"{path}:kept", JobOptions(freeze="0")).model()
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert {p.device.type for p in model.parameters()} == {"meta"}
    live = load_job(f"{path}:kept").model
    assert all(p.requires_grad and p.device.type == "cpu" for p in live.parameters())


def test_a_pattern_that_names_nothing_offers_what_there_is(tmp_path: Path) -> None:
    job = load_job(str(write(tmp_path, JOB)), JobOptions(freeze="wieght"))
    with pytest.raises(SourceError) as caught:
        job.model()
    assert "did you mean weight" in str(caught.value)


def test_repeated_blocks_are_checkpointed_and_compute_the_same(tmp_path: Path) -> None:
    deep = (
        JOB
        + "\ndef deep():\n    return job.with_(model=lambda: nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU())"
    )
    path = write(tmp_path, deep + " for _ in range(3))))\n")
    plain, checkpointed = (load_job(f"{path}:deep", JobOptions(checkpointing=c)).model() for c in (None, True))
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4)
    grads = []
    for model in (plain, checkpointed):
        saved: list[torch.Size] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.shape) or t, lambda t: t):
            model(x).sum().backward()
        grads.append((model[0][0].weight.grad, len(saved)))
    assert torch.equal(grads[0][0], grads[1][0])
    # Plain: of each block its input, weight and result, but for the first weight, as no gradient of x is wanted.
    # Checkpointed: of each block its input, which torch 2.11 saves twice.
    assert grads[0][1] == 3 * 3 - 1
    assert grads[1][1] in (3, 2 * 3)


def test_a_model_without_blocks_cannot_be_checkpointed(tmp_path: Path) -> None:
    job = load_job(str(write(tmp_path, JOB)), JobOptions(checkpointing=True))
    with pytest.raises(SourceError, match="no repeated blocks"):
        job.model()


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("{path}:jbo", ("no attribute 'jbo'", "did you mean job")),
        ("{folder}/trian.py:job", ("no such file", "did you mean train.py")),
        ("no_such_package_at_all.x:job", ("no module no_such_package_at_all",)),
        ("resnet50", ("which attribute", "torchvision:resnet50")),
        ("torchvison:resnet50", ("unknown source 'torchvison'", "torchvision:resnet50")),
        ("", ("no job was named", "path/to/file.py:attr")),
        ("torchvision:", ("names no model",)),
        ("{folder}", ("folder", "hf:{folder}")),
        ("{path}:number", ("no training job", "int")),
        ("{path}:nothing", ("no training job", "None")),
        ("{path}:needs", ("needs arguments", "width", "train.py:")),
        ("{path}:fails", ("calling", "ZeroDivisionError", "train.py:", "in inner")),
        ("{path}:net", ("says nothing of its data", "Linear", "TrainingJob(model=net")),
        ("{path}:Net", ("says nothing of its data",)),
        ("{path}:Wide", ("constructor needs arguments", "width")),
    ],
)
def test_what_is_no_job_is_an_error_that_says_what_to_give(tmp_path: Path, spec: str, parts: tuple[str, ...]) -> None:
    text = """
number = 3
def nothing(): pass
def needs(width): pass
def inner(): return 1 / 0
def fails(): return inner()
net = nn.Linear(1, 1)
class Net(nn.Module): pass
class Wide(nn.Module):
    def __init__(self, width): super().__init__()
"""
    path = write(tmp_path, JOB + text)
    names = {"path": path, "folder": tmp_path}
    said = message(spec.format(**names))
    assert [p for p in parts if p.format(**names) not in said] == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x = 1\ny = [2\n", ("SyntaxError", "train.py:2")),
        ("import no_such_library_at_all\n", ("no_such_library_at_all", "train.py:1", "install")),
        ("import sys\nsys.exit(3)\n", ("it exits", "__main__", "train.py:2")),
        ("from .model import Net\n", ("relative import", "package.module:attr")),
        ("def f():\n    raise ValueError('bad width')\nf()\n", ("ValueError: bad width", "train.py:2 in f")),
    ],
)
def test_an_error_of_the_users_file_names_its_line(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    said = message(f"{write(tmp_path, text)}:job")
    assert [p for p in parts if p not in said] == []


def test_eight_bit_state_is_a_byte_an_element_and_a_scale_a_block(tmp_path: Path) -> None:
    """256 x 32 elements: two states of 8192 bytes, two times 32 scales of 4 bytes, two shared maps of 256 x 4 bytes."""
    wide = JOB + "\ndef wide():\n    return job.with_(model=lambda: nn.Embedding(256, 32), optimizer='adamw_8bit')\n"
    path = write(tmp_path, wide)

    def state_bytes(options: JobOptions) -> int:
        job = load_job(f"{path}:wide", options)
        model = job.model()
        optimizer = job.optimizer(list(model.parameters()))
        model(torch.tensor([1])).sum().backward()
        optimizer.step()
        state = optimizer.state[model.weight]
        assert "8bit is not traced" in job.notes[-1]
        return sum(t.numel() * t.element_size() for t in state.values() if isinstance(t, torch.Tensor))

    assert state_bytes(JobOptions()) == 2 * (8192 + 32 * 4 + 256 * 4)
    assert state_bytes(JobOptions(optimizer="adamw-bnb-8bit")) == 2 * 8192 * 4
    assert "did you mean adamw_8bit" in message(f"{path}:wide", JobOptions(optimizer="adamww_8bit"))
