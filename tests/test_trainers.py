"""Plugins of accelerate, transformers and Lightning, with the real libraries on the CPU."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import estimator
from estimator.devices.process import own_rss_bytes
from estimator.errors import JobError, UsageError
from estimator.integrations.predicted import (
    device_of_this_process,
    predicted,
    rng_untouched,
    tensor_bytes,
    warn_of_others,
)
from estimator.sources.torchvision_import import torchvision_on_demand

pytestmark = pytest.mark.torch

MIB = 1 << 20


def card(free_bytes: int) -> estimator.DeviceProfile:
    return estimator.DeviceProfile(
        name="small", kind="cuda", total_bytes=free_bytes, compute_capability=(8, 0), multiprocessor_count=10
    )


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 4))


def job() -> estimator.TrainingJob:
    return estimator.TrainingJob(
        model=model,
        batch=lambda n: (torch.randn(n, 64), torch.randint(0, 4, (n,))),
        loss=lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]),
        optimizer="adamw",
    )


@pytest.fixture(scope="module")
def answer() -> estimator.Estimate:
    return estimator.estimate(job(), device=card(64 * MIB), cross_check=False)


def states() -> tuple[Any, ...]:
    arrays = numpy.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (arrays[0], arrays[1].tolist(), *arrays[2:])


# ------------------------------------------------------------ what they share


def test_an_estimate_a_job_or_a_function_is_predicted(answer: estimator.Estimate) -> None:
    assert predicted(answer) is answer
    assert predicted(lambda: answer) is answer
    assert predicted(job, card(64 * MIB)).max_batch_size == answer.max_batch_size
    with pytest.raises(JobError, match="nothing that can be predicted"):
        predicted(3)


def test_what_this_process_holds_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = estimator.DeviceProfile(name="cpu", kind="cpu", total_bytes=1 << 40, free_bytes=1 << 30)
    monkeypatch.setattr("estimator.devices.this_device", lambda: cpu)
    free = device_of_this_process().capacity_bytes
    assert free > 1 << 30
    assert abs(free - (1 << 30) - own_rss_bytes()) < 64 * MIB
    monkeypatch.setattr("estimator.devices.this_device", lambda: card(1 << 30).model_copy(update={"free_bytes": 1 << 29}))
    assert device_of_this_process().capacity_bytes == 1 << 29, "CUDA is not initialised: nothing is held"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 100 * MIB)
    assert device_of_this_process().capacity_bytes == (1 << 29) + 100 * MIB


def test_a_process_that_is_larger_than_torch_alone_counts_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resident are 3 GiB, of which tensors (and a view of one) have 64 MiB and whatever other tests left."""
    from estimator.integrations import predicted as module

    before = tensor_bytes()
    kept = torch.ones(16 << 20)
    view = kept[: 1 << 20]
    assert tensor_bytes() - before == 64 * MIB
    cpu = estimator.DeviceProfile(name="cpu", kind="cpu", total_bytes=1 << 40, free_bytes=1 << 35, context_bytes=300 * MIB)
    monkeypatch.setattr("estimator.devices.this_device", lambda: cpu)
    monkeypatch.setattr(module, "own_rss_bytes", lambda: 3 << 30)
    assert device_of_this_process().context_bytes == (3 << 30) - tensor_bytes()
    monkeypatch.setattr(module, "own_rss_bytes", lambda: tensor_bytes() + 100 * MIB)
    assert device_of_this_process().context_bytes == 300 * MIB, "torch alone is the least"
    del view


def test_generators_are_put_back() -> None:
    before = states()
    with rng_untouched():
        torch.rand(3), random.random(), numpy.random.rand()
    assert states() == before


# ------------------------------------------------------------ accelerate


class Recorder:
    """A function of the batch size that runs out of memory above some size."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, list[int]()

    def __call__(self, batch_size: int, word: str = "") -> str:
        self.sizes.append(batch_size)
        if batch_size > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return f"{word}{batch_size}"


def library(name: str) -> Any:
    """A library that may import torchvision, also where torchvision's own compiled part does not load."""
    with torchvision_on_demand():
        return pytest.importorskip(name)


@pytest.fixture
def accelerate() -> Any:
    return library("accelerate")


def test_it_starts_from_the_prediction_and_goes_on_as_accelerate_does(accelerate: Any, answer: estimator.Estimate) -> None:
    largest = answer.max_batch_size
    run = Recorder(int(largest * 0.95))
    assert estimator.find_executable_batch_size(run, job=answer)("ran ") == f"ran {int(largest * 0.9)}"
    assert run.sizes == [largest, int(largest * 0.9)]


def test_as_a_decorator_with_arguments(accelerate: Any, answer: estimator.Estimate) -> None:
    sizes = []

    @estimator.find_executable_batch_size(starting_batch_size=16, job=lambda: answer)
    def train(batch_size: int) -> int:
        sizes.append(batch_size)
        return batch_size

    assert (train(), train()) == (16, 16)
    with pytest.raises(TypeError, match="Batch size was passed"):
        train(8)


def test_without_a_job_it_is_accelerates_own(accelerate: Any) -> None:
    run = Recorder(120)
    assert estimator.find_executable_batch_size(run)() == "115"  # 128 * 0.9
    assert run.sizes == [128, 115]
    halved = iter((64, 32))
    run = Recorder(32)
    assert estimator.find_executable_batch_size(run, 128, lambda: next(halved))() == "32"


def test_where_nothing_fits_one_sample_is_tried_and_it_is_said(accelerate: Any) -> None:
    nothing = estimator.estimate(job(), device=card(1 * MIB), cross_check=False)
    assert nothing.max_batch_size == 0
    run = Recorder(10)
    with pytest.warns(RuntimeWarning, match="not even a batch of 1"):
        assert estimator.find_executable_batch_size(run, job=nothing)() == "1"


def test_without_accelerate_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate.utils", None)
    with pytest.raises(UsageError, match="accelerate is not installed"):
        estimator.find_executable_batch_size(lambda n: n)


# ------------------------------------------------------------ transformers


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Token rows whose reading draws from a generator, as augmentations do."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 50, (16,))
        return {"input_ids": tokens, "labels": tokens}


@pytest.fixture
def transformers() -> Any:
    library("accelerate")
    found = library("transformers")
    with torchvision_on_demand():  # the names of its Trainer are imported when they are asked for
        assert found.Trainer
        assert found.GPT2LMHeadModel
    return found


def trainer_of(transformers: Any, folder: Path, callback: Any, **arguments: Any) -> Any:
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=50, n_positions=32)
    args = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=2, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
        logging_strategy="no", seed=3, **arguments,
    )  # fmt: skip
    transformers.set_seed(3)
    return transformers.Trainer(
        transformers.GPT2LMHeadModel(config), args, train_dataset=Rows(), callbacks=[callback] if callback else []
    )


def test_the_trainer_gets_the_largest_batch_that_fits(transformers: Any, tmp_path: Path) -> None:
    from estimator.integrations.transformers import BatchSizeCallback

    callback = BatchSizeCallback(batch=Rows(), device=card(32 * MIB))
    trainer = trainer_of(transformers, tmp_path, callback)
    assert callback.estimate is not None
    assert trainer.args.per_device_train_batch_size == callback.estimate.max_batch_size > 1
    assert callback.estimate.settings["grad_clip"] == 1.0
    trainer.train()
    assert trainer.state.train_batch_size == callback.estimate.max_batch_size
    capped = trainer_of(transformers, tmp_path, BatchSizeCallback(batch=Rows(), device=card(32 * MIB), most=2))
    assert capped.args.per_device_train_batch_size == 2


def test_a_chosen_batch_is_looked_at_and_training_is_the_same(transformers: Any, tmp_path: Path) -> None:
    """With the callback and without it, the weights after training are the same to the bit."""
    from estimator.integrations.transformers import BatchSizeCallback

    callback = BatchSizeCallback(device=card(1 << 30))
    weights = []
    for added in (None, callback):
        trainer = trainer_of(transformers, tmp_path, added, per_device_train_batch_size=4)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert callback.estimate is not None
    assert callback.estimate.at(4).fits
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("too_large", ["warn", "raise"])
def test_a_batch_that_does_not_fit_is_said_before_training(transformers: Any, tmp_path: Path, too_large: Any) -> None:
    from estimator.integrations.transformers import BatchSizeCallback

    callback = BatchSizeCallback(device=card(32 * MIB), too_large=too_large)
    trainer = trainer_of(transformers, tmp_path, callback, per_device_train_batch_size=4096, bf16=False)
    if too_large == "raise":
        with pytest.raises(MemoryError, match="batch 4096 does not fit"):
            trainer.train()
        assert trainer.state.global_step == 0
    else:
        with pytest.warns(RuntimeWarning, match="batch 4096 does not fit"):
            trainer.train()
    with pytest.raises(UsageError):
        BatchSizeCallback(too_large="perhaps")  # type: ignore[arg-type]


# ------------------------------------------------------------ Lightning


@pytest.fixture
def lightning() -> Any:
    return library("lightning.pytorch")


def module_and_data(lightning: Any) -> tuple[Any, Any]:
    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    class Data(lightning.LightningDataModule):
        def __init__(self, batch_size: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.setups = 0

        def setup(self, stage: str) -> None:
            self.setups += 1
            torch.manual_seed(1)
            self.rows = torch.utils.data.TensorDataset(torch.randn(256, 64), torch.randint(0, 4, (256,)))

        def train_dataloader(self) -> Any:
            return DataLoader(self.rows, batch_size=self.hparams["batch_size"], shuffle=True)

    torch.manual_seed(0)
    return Lit(), Data()


def fit(lightning: Any, folder: Path, callbacks: list[Any], module: Any, data: Any, **more: Any) -> Any:
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, default_root_dir=folder, **more,
    )  # fmt: skip
    torch.manual_seed(5)
    trainer.fit(module, datamodule=data)
    return trainer


def test_the_datamodule_gets_the_largest_batch_that_fits(lightning: Any, tmp_path: Path) -> None:
    from estimator.integrations.lightning import BatchSizeCallback

    callback = BatchSizeCallback(device=card(32 * MIB), most=100)
    module, data = module_and_data(lightning)
    trainer = fit(lightning, tmp_path, [callback], module, data, accumulate_grad_batches=2, gradient_clip_val=0.5)
    assert callback.estimate is not None
    assert data.hparams["batch_size"] == min(100, callback.estimate.max_batch_size) > 4
    assert trainer.train_dataloader.batch_size == data.hparams["batch_size"]
    assert callback.estimate.settings["accumulation_steps"] == 2
    assert callback.estimate.settings["grad_clip"] == 0.5
    assert data.setups == 1, "the datamodule is not set up a second time"


def test_training_is_the_same_with_and_without(lightning: Any, tmp_path: Path) -> None:
    from estimator.integrations.lightning import BatchSizeCallback

    weights = []
    for callbacks in ([], [BatchSizeCallback(device=card(1 << 30), apply=False)]):
        module, data = module_and_data(lightning)
        fit(lightning, tmp_path, callbacks, module, data)
        weights.append(copy.deepcopy(module.state_dict()))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_batch_that_does_not_fit_is_a_warning(lightning: Any, tmp_path: Path) -> None:
    from estimator.integrations.lightning import BatchSizeCallback

    module, data = module_and_data(lightning)
    data.hparams["batch_size"] = 200_000
    with pytest.warns(RuntimeWarning, match="batch 200000 does not fit"):
        fit(lightning, tmp_path, [BatchSizeCallback(device=card(32 * MIB), apply=False)], module, data)


def test_nobody_has_the_attribute(lightning: Any, tmp_path: Path) -> None:
    from estimator.integrations.lightning import BatchSizeCallback

    module, data = module_and_data(lightning)
    with pytest.raises(UsageError, match="has micro_batch"):
        fit(lightning, tmp_path, [BatchSizeCallback(device=card(32 * MIB), attribute="micro_batch")], module, data)


def test_a_loader_that_is_made_already(lightning: Any, tmp_path: Path) -> None:
    """Its batch size cannot be set, and that is said; what it has is looked at."""
    from estimator.integrations.lightning import BatchSizeCallback

    module, data = module_and_data(lightning)
    data.setup("fit")
    data.hparams["batch_size"] = 200_000
    module.batch_size = 4

    def run(**how: Any) -> None:
        trainer = lightning.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[BatchSizeCallback(device=card(32 * MIB), **how)],
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, data.train_dataloader())

    with pytest.raises(UsageError, match="made already"):
        run()
    with pytest.warns(RuntimeWarning, match="batch 200000 does not fit"):
        run(apply=False)


def test_several_processes_are_told_apart_from_one() -> None:
    with pytest.warns(RuntimeWarning, match="4 train together"):
        warn_of_others(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_others(1)
