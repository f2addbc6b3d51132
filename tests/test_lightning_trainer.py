"""LightningModules that ask their Trainer for much: what stands in for it, and what is said where nothing can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.errors import SourceError
from estimator.sources import load_job
from estimator.sources.torchvision_import import import_torchvision

pytestmark = pytest.mark.torch

FILE = """
import torch, torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset
try:
    import lightning as L
except ImportError:
    import pytorch_lightning as L

def loader():
    return DataLoader(TensorDataset(torch.randn(16, 8), torch.randint(4, (16,))), batch_size=8)

class Base(L.LightningModule):
    def __init__(self, automatic=True):
        super().__init__()
        self.net, self.critic = nn.Linear(8, 4), nn.Linear(4, 1)
        self.automatic_optimization = automatic
    def train_dataloader(self):
        return loader()
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss
    def scheduler(self, optimizer):
        raise NotImplementedError
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

class Stepping(Base):
    def scheduler(self, optimizer):
        return OneCycleLR(optimizer, 1e-3, total_steps=self.trainer.estimated_stepping_batches)

class MaxSteps(Base):
    def scheduler(self, optimizer):
        warm = max(1, int(self.trainer.max_steps * 0.1))
        return LambdaLR(optimizer, lambda step: min(1.0, step / warm))

class OwnLoader(Base):
    def scheduler(self, optimizer):
        return LinearLR(optimizer, total_iters=len(self.trainer.train_dataloader) * self.trainer.max_epochs)

class FromDataModule(Base):
    def scheduler(self, optimizer):
        return LinearLR(optimizer, total_iters=len(self.trainer.datamodule.train_dataloader()))

class Data(L.LightningDataModule):
    def train_dataloader(self):
        return loader()

def with_datamodule():
    return FromDataModule(), Data()

class Chatty(Stepping):
    def training_step(self, batch, batch_idx):
        self.print("step", self.current_epoch, self.global_step)
        self.logger.experiment.add_scalar("x", 1.0)
        self.trainer.strategy.barrier()
        self.all_gather(batch[0])
        self.lr_schedulers().get_last_lr()
        return super().training_step(batch, batch_idx)

class Gan(Base):
    def __init__(self):
        super().__init__(automatic=False)
    def training_step(self, batch, batch_idx):
        makes, judges = self.optimizers()
        with makes.toggle_model():
            loss = -self.critic(self.net(batch[0])).mean()
            makes.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(makes, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
            makes.step()
        self.toggle_optimizer(judges)
        loss = self.critic(self.net(batch[0]).detach()).mean()
        judges.optimizer.zero_grad()
        self.manual_backward(loss)
        judges.step()
        self.untoggle_optimizer(judges)
        self.log_dict({"judges": loss})
        for scheduler in self.lr_schedulers():
            scheduler.step()
    def configure_optimizers(self):
        both = torch.optim.Adam(self.net.parameters()), torch.optim.Adam(self.critic.parameters())
        return list(both), [StepLR(o, 5) for o in both]

class Inside(Stepping):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.trainer.fit_loop.restarting

def with_trainer():
    module = Inside()
    module.trainer = L.Trainer(max_epochs=2, logger=False, accelerator="cpu", enable_checkpointing=False)
    return module
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    import_torchvision(required=False)
    try:
        import lightning  # noqa: F401
    except ImportError:
        pytest.importorskip("pytorch_lightning")
    (tmp_path / "lit.py").write_text(FILE)
    return tmp_path / "lit.py"


def stepped(spec: str) -> tuple[Any, Any]:
    """Model and optimizer after one step, as the trace takes it; a live module's copy is on meta."""
    job = load_job(spec)
    model = job.model()
    batch = [t.to(model.net.weight.device) for t in next(iter(job.batch))]
    if job.step is not None:
        job.step(model, None, batch)
        return model, None
    optimizer = job.optimizer(list(model.parameters()))  # type: ignore[operator, misc]
    job.loss(model, batch).backward()  # type: ignore[misc]
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", ["Stepping", "MaxSteps", "OwnLoader", "with_datamodule", "Chatty"])
def test_a_scheduler_reads_of_the_trainer_what_it_likes(name: str, file: Path) -> None:
    model, optimizer = stepped(f"{file}:{name}")
    assert type(optimizer).__name__ == "AdamW"
    # Weight and bias of the net, which the loss is of; the critic has no gradient and so no state.
    assert sum(t.numel() for s in optimizer.state.values() for t in s.values() if t.dim()) == 2 * (8 * 4 + 4)
    assert model.net.weight.grad.shape == (4, 8)


def test_several_optimizers_by_hand_with_lightnings_own_wrappers(file: Path) -> None:
    model, _ = stepped(f"{file}:Gan")
    makes, judges = model.trainer.optimizers
    assert [sorted(s) for o in (makes, judges) for s in o.state.values()] == 4 * [["exp_avg", "exp_avg_sq", "step"]]
    # Clipped to a norm of 1e-3.
    assert sum(float(p.grad.square().sum()) for p in model.net.parameters()) <= 1.0001e-6
    assert all(type(o).__name__ == "LightningAdam" for o in model.optimizers())


def test_a_step_by_hand_is_predicted(file: Path) -> None:
    """Two moments of 32 + 4 + 4 + 1 float32 weights, and eight numbers of steps of 4 bytes on the host."""
    import estimator

    answer = estimator.estimate(load_job(f"{file}:Gan"), device="a100-80gb", memory="1GiB", cross_check=False)
    assert answer.at(8).by_category["optimizer_state"] == 2 * 4 * (32 + 4 + 4 + 1)


def test_what_only_a_real_trainer_has_is_asked_of_the_one_that_is_given(file: Path) -> None:
    with pytest.raises(SourceError) as caught:
        stepped(f"{file}:Inside")
    text = str(caught.value)
    assert "training_step needs its Trainer: self.trainer.fit_loop" in text
    assert "module.trainer = Trainer(...)" in text
    assert f"lit.py:{FILE.splitlines().index('        return super().training_step(batch, batch_idx) * self.trainer.fit_loop.restarting') + 1}" in text
    model, _ = stepped(f"{file}:with_trainer")
    assert model.net.weight.grad.shape == (4, 8)
