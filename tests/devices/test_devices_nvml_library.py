"""The real binding against a compiled library with made-up cards, in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.pure

SOURCE = Path(__file__).parent.parent / "data" / "fake_nvml.c"
MIB = 1 << 20
CHILD = """
import json, sys, warnings
from estimator.devices import gpus_here
from estimator.errors import DeviceError
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    try:
        out = {"gpus": [gpu.model_dump() for gpu in gpus_here()]}
    except DeviceError as error:
        out = {"error": str(error)}
out["warnings"] = [str(w.message) for w in told]
out["torch"] = "torch" in sys.modules
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler to build the made-up libnvidia-ml.so.1 with")
    built = {}
    for version, flags in {"new": [], "v1": ["-DWITHOUT_V2"]}.items():
        folder = tmp_path_factory.mktemp(f"nvml-{version}")
        target = folder / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-O0", *flags, str(SOURCE), "-o", str(target)], check=True)
        built[version] = folder
    return built


def ask(folder: Path, cards: str, **environ: str) -> dict[str, Any]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "BATCH_ESTIMATOR"))}
    root = str(Path(__file__).parents[2])
    child = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=True,
        env=clean | {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": cards, "PYTHONPATH": root} | environ,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(child.stdout)
    return answer


def test_two_cards(libraries: dict[str, Path]) -> None:
    answer = ask(libraries["new"], "pair", CUDA_DEVICE_ORDER="PCI_BUS_ID")
    a100, ada = answer["gpus"]
    assert (a100["name"], a100["total_bytes"], a100["free_bytes"]) == ("a100-40gb", 40440 * MIB, 30000 * MIB)
    assert (ada["name"], ada["total_bytes"], ada["multiprocessor_count"]) == ("rtx-4090", 24073 * MIB, 128)
    assert answer["warnings"] == []
    assert not answer["torch"], "asking a driver must not cost an import of torch"


def test_visible_devices_by_uuid(libraries: dict[str, Path]) -> None:
    answer = ask(libraries["new"], "pair", CUDA_VISIBLE_DEVICES="GPU-4090")
    assert [gpu["name"] for gpu in answer["gpus"]] == ["rtx-4090"]


def test_slices(libraries: dict[str, Path]) -> None:
    small, large = ask(libraries["new"], "mig")["gpus"]
    assert (small["total_bytes"], small["multiprocessor_count"]) == (9920 * MIB, 16)
    assert (large["total_bytes"], large["multiprocessor_count"]) == (40384 * MIB, 60)
    (chosen,) = ask(libraries["new"], "mig", CUDA_VISIBLE_DEVICES="MIG-22222222-bbbb")["gpus"]
    assert chosen == {**large, "title": large["title"].replace("cuda:1", "cuda:0")}
    (legacy,) = ask(libraries["new"], "mig", CUDA_VISIBLE_DEVICES="MIG-GPU-h100h100-0000/2/0")["gpus"]
    assert legacy == chosen


def test_a_driver_with_version_1_only(libraries: dict[str, Path]) -> None:
    a100, ada = ask(libraries["v1"], "pair")["gpus"]
    assert a100["total_bytes"] == 40326 * MIB, "from the catalogue"
    assert ada["total_bytes"] == 24073 * MIB
    assert a100["free_bytes"] == 30000 * MIB
    (unheard,) = ask(libraries["v1"], "unheard")["gpus"]
    assert unheard["total_bytes"] == 8192 * MIB


def test_a_card_unheard_of(libraries: dict[str, Path]) -> None:
    (gpu,) = ask(libraries["new"], "unheard")["gpus"]
    assert (gpu["name"], gpu["total_bytes"], gpu["multiprocessor_count"]) == ("unheard-9000", 8000 * MIB, 10)


@pytest.mark.parametrize(("how", "says"), [("mismatch", "version mismatch"), ("lost", "GPU is lost")])
def test_a_driver_that_fails(libraries: dict[str, Path], how: str, says: str) -> None:
    assert says in ask(libraries["new"], how)["error"]


def test_a_driver_that_is_not_loaded_and_one_without_cards(libraries: dict[str, Path]) -> None:
    answer = ask(libraries["new"], "unloaded")
    assert answer["gpus"] == []
    assert "not loaded" in answer["warnings"][0]
    assert ask(libraries["new"], "none") == {"gpus": [], "warnings": [], "torch": False}


USE = """
import json, os, sys
from estimator.devices.nvml import read_use
from estimator.errors import DeviceError
try:
    use = read_use(sys.argv[1], 77)
    print(json.dumps([use.free_bytes, use.own_bytes]))
except DeviceError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize(
    ("uuid", "process", "expected"),
    [
        ("GPU-a100a100-0000", {"FAKE_NVML_PROCESS": "77 123456789"}, [30000 * MIB, 123456789]),
        ("MIG-11111111-aaaa", {"FAKE_NVML_PROCESS": "77 5"}, [9000 * MIB, 5]),
        ("GPU-a100a100-0000", {"FAKE_NVML_PROCESS": "78 123456789"}, [30000 * MIB, None]),
        ("GPU-a100a100-0000", {}, [30000 * MIB, None]),
        ("GPU-a100a100-0000", {"FAKE_NVML_PROCESS": "self 7"}, [30000 * MIB, None]),
    ],
)
def test_what_a_process_has_of_a_card(
    libraries: dict[str, Path], uuid: str, process: dict[str, str], expected: list[int | None]
) -> None:
    assert use_of(libraries["new"], uuid, **process) == expected


def test_a_card_that_the_driver_does_not_know(libraries: dict[str, Path]) -> None:
    assert "does not say what memory of the card is used" in use_of(libraries["new"], "GPU-none")


def use_of(folder: Path, uuid: str, **environ: str) -> Any:
    child = subprocess.run(
        [sys.executable, "-c", USE, uuid], capture_output=True, text=True, timeout=60, check=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": "pair", "PYTHONPATH": str(Path(__file__).parents[2])} | environ,
    )  # fmt: skip
    return json.loads(child.stdout)
