"""Jobs of torchvision, timm, transformers and Lightning: with the library, and without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources import JobOptions, load_job
from estimator.sources.torchvision_import import import_torchvision

pytestmark = pytest.mark.torch

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 100,
    "max_position_embeddings": 64, "torch_dtype": "bfloat16",
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 32}
BERT = {
    "model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 50, "max_position_embeddings": 24,
}  # fmt: skip
VIT = {
    "model_type": "vit", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4, "num_channels": 1, "architectures": ["ViTForImageClassification"],
}  # fmt: skip
T5 = {
    "model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50,
    "n_positions": 16,
}  # fmt: skip


def message(spec: str, options: JobOptions | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        load_job(spec, options)
    return str(caught.value)


def take_step(job: TrainingJob, n: int = 2) -> torch.nn.Module:
    """Run one real step on a CPU: the model builds, takes its batch and gives a scalar loss with gradients."""
    model = job.model().train()
    loss = job.loss(model, job.batch(n))  # type: ignore[misc]
    assert loss.shape == ()
    loss.backward()
    assert any(p.grad is not None for p in model.parameters())
    return model


@pytest.mark.parametrize(
    ("library", "spec", "extra"),
    [
        ("torchvision", "torchvision:resnet18", "torchvision"),
        ("timm", "timm:resnet18", "timm"),
        ("transformers", "hf:bert", "transformers"),
    ],
)
def test_an_absent_library_names_the_line_that_installs_it(
    library: str, spec: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    said = message(spec)
    assert f"needs {library}, which is not installed" in said
    assert f"pip install 'batch-estimator[{extra}]'" in said


def test_lora_without_peft_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    job = load_job("benchmarks/zoo/mlp.py:tiny", JobOptions(lora="r=2,targets=0"))
    with pytest.raises(SourceError, match=r"batch-estimator\[peft\]"):
        job.model()


class TestTorchvision:
    @pytest.fixture(autouse=True)
    def _needs_it(self) -> None:
        if import_torchvision(required=False) is None:
            pytest.skip("torchvision is not installed")

    def test_a_classifier_is_trained_on_images_of_the_size_of_its_weights(self) -> None:
        job = load_job("torchvision:squeezenet1_1")
        assert job.batch(3)[0].shape == (3, 3, 224, 224)
        assert any("224" in note for note in job.notes)

    def test_options_reach_the_model_and_the_batch(self) -> None:
        job = load_job("torchvision:vit_b_32", JobOptions(image_size=64, num_classes=7, precision="amp-bf16"))
        with torch.device("meta"):
            model = job.model()
        images, labels = job.batch(4)
        assert (images.shape, labels.shape, job.precision) == ((4, 3, 64, 64), (4,), "amp-bf16")
        assert (model.heads.head.out_features, model.image_size) == (7, 64)

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("mobilenet_v3_small", 32),
            ("googlenet", 64),
            ("lraspp_mobilenet_v3_large", 64),
            pytest.param("ssdlite320_mobilenet_v3_large", 320, marks=pytest.mark.slow),
        ],
    )
    def test_families_take_a_step(self, name: str, size: int) -> None:
        take_step(load_job(f"torchvision:{name}", JobOptions(image_size=size)))

    def test_video_is_five_dimensional(self) -> None:
        assert load_job("torchvision:r3d_18", JobOptions(frames=4)).batch(2)[0].shape == (2, 3, 4, 112, 112)

    def test_an_unknown_model_offers_the_nearest(self) -> None:
        assert "did you mean resnet50" in message("torchvision:resnet5")

    def test_an_image_too_small_says_the_least_size(self) -> None:
        said = message("torchvision:inception_v3", JobOptions(image_size=32))
        assert "image_size=32" in said
        assert "image_size >= 75" in said

    def test_what_a_vision_model_does_not_take_is_an_error(self) -> None:
        assert "sequence_length" in message("torchvision:resnet18", JobOptions(sequence_length=3))

    def test_a_file_that_imports_it_gets_it_also_without_its_compiled_operators(self, tmp_path: Path) -> None:
        """In a process of its own: the stand-in is there while the file runs, and a plain import is as it was."""
        (tmp_path / "train.py").write_text("import torchvision\njob = torchvision.__name__\n")
        code = (
            "import sys; from estimator.sources.module import _from_file; from pathlib import Path\n"
            f"home, module = _from_file(Path({str(tmp_path / 'train.py')!r}))\n"
            "print(module.job, len(sys.meta_path), 'torchvision' in sys.modules)"
        )
        before = len(sys.meta_path)
        root = Path(__file__).parent.parent
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        name, finders, present = done.stdout.split()
        assert (name, present) == ("torchvision", "True")
        assert int(finders) <= before


class TestStandIn:
    """The operators that are defined where torchvision's compiled library does not load."""

    def test_nms_keeps_the_best_of_those_that_overlap(self) -> None:
        from estimator.sources.torchvision_ops import nms

        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30], [0, 0, 5, 10]])
        # Overlap of 0 and 1: 81 of 100; of 0 and 3: 50 of 100.
        assert nms(boxes, torch.tensor([0.5, 0.9, 0.1, 0.7]), 0.6).tolist() == [1, 3, 2]

    def test_roi_align_of_a_ramp_is_the_ramp_at_the_middle_of_each_bin(self) -> None:
        """input[y, x] = x: a bin's average over sample points is x at its middle, 0.5 less when aligned to pixels."""
        from estimator.sources.torchvision_ops import roi_align

        ramp = torch.arange(8.0).expand(1, 1, 8, 8).contiguous()
        roi = torch.tensor([[0.0, 1, 1, 5, 5]])
        assert roi_align(ramp, roi, 1.0, 2, 2, 2, False)[0, 0].tolist() == [[2, 4], [2, 4]]
        assert roi_align(ramp, roi, 1.0, 2, 2, 2, True)[0, 0].tolist() == [[1.5, 3.5], [1.5, 3.5]]

    def test_roi_align_backward_is_the_transpose(self) -> None:
        from estimator.sources.torchvision_ops import roi_align, roi_align_backward

        x, rois = torch.randn(2, 3, 6, 7), torch.tensor([[0.0, 1, 2, 9, 11], [1, -3, 0, 4, 30]])
        out = roi_align(x, rois, 0.5, 2, 3, -1, False)
        grad = torch.randn_like(out)
        back = roi_align_backward(grad, rois, 0.5, 2, 3, 2, 3, 6, 7, -1, False)
        assert torch.allclose((out * grad).sum(), (back * x).sum(), atol=1e-4)


class TestTimm:
    @pytest.fixture(autouse=True)
    def _needs_it(self) -> None:
        import_torchvision(required=False)
        pytest.importorskip("timm")

    def test_the_batch_has_the_default_size_of_the_model(self) -> None:
        assert load_job("timm:mobilenetv3_small_050").batch(2)[0].shape == (2, 3, 224, 224)

    def test_a_fixed_size_model_is_built_at_the_size_asked_for(self) -> None:
        job = load_job("timm:deit_tiny_distilled_patch16_224", JobOptions(image_size=32, num_classes=5))
        model = take_step(job)
        assert model.pos_embed.shape[1] == 2 * 2 + 2

    def test_checkpointing_is_told_to_the_model(self) -> None:
        job = load_job("timm:vit_tiny_patch16_224", JobOptions(image_size=32, checkpointing=True))
        assert job.model().grad_checkpointing is True

    def test_an_unknown_model_offers_the_nearest(self) -> None:
        assert "did you mean resnet50" in message("timm:resnet5O")


class TestExperts:
    """Where the tokens of a mixture of experts go is data; each expert is taken to get its equal share."""

    def shares(self, tokens: int, experts: int, active: int) -> list[int]:
        from estimator.sources.huggingface_experts import EqualShares

        mask = torch.zeros(active, tokens, dtype=torch.int64)
        with EqualShares(experts, active):
            return [len(torch.where(mask)[1]) for _ in range(experts)]

    def test_shares_differ_by_one_at_most_and_sum_to_all(self) -> None:
        assert self.shares(8, 4, 2) == [4, 4, 4, 4]
        assert self.shares(5, 4, 2) == [3, 3, 2, 2]

    def test_places_are_two_columns_of_one_table_as_where_makes_them(self) -> None:
        from estimator.sources.huggingface_experts import EqualShares

        with EqualShares(4, 2):
            first, second = torch.where(torch.zeros(2, 8, dtype=torch.int64))
        assert (first.stride(), first.untyped_storage().nbytes()) == ((2,), 4 * 2 * 8)
        assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()

    def test_other_questions_get_their_own_answer(self) -> None:
        from estimator.sources.huggingface_experts import EqualShares

        with EqualShares(4, 2):
            assert torch.where(torch.tensor([True, False, True]))[0].tolist() == [0, 2]
            assert torch.tensor([3, 4]).tolist() == [3, 4]
            assert torch.where(torch.tensor(True), 1, 2) == 1


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(fields: dict[str, Any]) -> str:
        (tmp_path / "config.json").write_text(json.dumps(fields))
        return f"hf:{tmp_path}"

    return write


class TestTransformers:
    @pytest.fixture(autouse=True)
    def _needs_it(self) -> None:
        import_torchvision(required=False)
        pytest.importorskip("transformers")

    @pytest.mark.parametrize(
        ("fields", "options", "inputs"),
        [
            (LLAMA, {}, {"input_ids": (2, 64), "labels": (2, 64)}),
            (GPT2, {"sequence_length": 8}, {"input_ids": (2, 8), "labels": (2, 8)}),
            (BERT, {"task": "sequence classification"}, {"input_ids": (2, 24), "labels": (2,)}),
            (
                BERT,
                {"task": "question-answering"},
                {"input_ids": (2, 24), "start_positions": (2,), "end_positions": (2,)},
            ),
            (BERT, {"task": "multiple-choice"}, {"input_ids": (2, 4, 24), "labels": (2,)}),
            (T5, {"sequence_length": 20}, {"input_ids": (2, 20), "labels": (2, 20)}),
            (VIT, {"image_size": 12, "num_classes": 3}, {"pixel_values": (2, 1, 12, 12), "labels": (2,)}),
        ],
    )
    def test_a_config_gets_its_model_batch_and_loss(
        self, config: Any, fields: dict[str, Any], options: dict[str, Any], inputs: dict[str, tuple[int, ...]]
    ) -> None:
        job = load_job(config(fields), JobOptions(**options))
        assert {name: tuple(t.shape) for name, t in job.batch(2).items()} == inputs
        take_step(job)

    def test_weights_are_of_the_jobs_dtype_not_the_configs(self, config: Any) -> None:
        job = load_job(config(LLAMA))
        assert {p.dtype for p in job.model().parameters()} == {torch.float32}
        assert any("bfloat16" in note for note in job.notes)

    def test_inference_has_no_labels(self, config: Any) -> None:
        job = load_job(config(GPT2), JobOptions(mode="inference"))
        assert list(job.batch(2)) == ["input_ids"]

    def test_a_sequence_beyond_the_positions_is_an_error(self, config: Any) -> None:
        said = message(config(GPT2), JobOptions(sequence_length=33))
        assert all(part in said for part in ("sequence_length=33", "up to 32", "n_positions"))

    def test_rotary_positions_only_say_so(self, config: Any) -> None:
        assert any("beyond the 64" in note for note in load_job(config(LLAMA), JobOptions(sequence_length=65)).notes)

    def test_roberta_counts_its_positions_from_the_padding(self, config: Any) -> None:
        """max_position_embeddings 24 and pad_token_id 1: positions 2 to 23."""
        said = message(config({**BERT, "model_type": "roberta", "pad_token_id": 1}), JobOptions(sequence_length=23))
        assert "up to 22" in said

    def test_mpnet_has_a_table_of_positions_beside_its_relative_ones(self, config: Any) -> None:
        """The same table, counted from a padding id of 1."""
        said = message(config({**BERT, "model_type": "mpnet", "pad_token_id": 1}), JobOptions(sequence_length=23))
        assert "up to 22" in said

    def test_attention_checkpointing_and_adapters_reach_the_model(self, config: Any) -> None:
        job = load_job(config(LLAMA), JobOptions(attn="eager", checkpointing=True))
        model = job.model()
        assert (model.config._attn_implementation, model.is_gradient_checkpointing) == ("eager", True)
        pytest.importorskip("peft")
        adapted = take_step(load_job(config(LLAMA), JobOptions(lora="r=4,targets=q_proj+v_proj")))
        # Two layers; q_proj: 4 * (32 + 32); v_proj has one head of two: 4 * (32 + 16).
        trained = [p.numel() for p in adapted.parameters() if p.requires_grad]
        assert sum(trained) == 2 * (4 * 64 + 4 * 48)

    def test_an_adapter_of_no_layer_offers_the_linear_ones(self, config: Any) -> None:
        pytest.importorskip("peft")
        with pytest.raises(SourceError) as caught:
            load_job(config(LLAMA), JobOptions(lora="targets=query")).model()
        assert "q_proj" in str(caught.value)

    @pytest.mark.parametrize(
        ("fields", "parts"),
        [
            ({"hidden_size": 3}, ("does not say its model_type", "config.json")),
            ({"architectures": ["LlamaForCausalLM"]}, ("model_type", "did you mean llama")),
            ({"model_type": "lama"}, ("does not know", "did you mean llama")),
            ({"model_type": "mine_own", "auto_map": {}}, ("code beside a config is never run",)),
        ],
    )
    def test_a_config_that_names_no_model_is_an_error(
        self, config: Any, fields: dict[str, Any], parts: tuple[str, ...]
    ) -> None:
        said = message(config(fields))
        assert [p for p in parts if p not in said] == []

    def test_a_path_that_is_not_there_is_an_error_and_nothing_is_downloaded(self, tmp_path: Path) -> None:
        assert "nothing is downloaded" in message("hf:meta-llama/no-such-model")
        assert "has no config.json" in message(f"hf:{tmp_path}")
        (tmp_path / "config.json").write_text("{")
        assert "no JSON" in message(f"hf:{tmp_path}")

    def test_a_task_that_the_type_has_not_is_an_error(self, config: Any) -> None:
        said = message(config(BERT), JobOptions(task="image-classification"))
        assert "no bert model for that task" in said
        assert "masked-lm" in said
        assert "did you mean masked-lm" in message(config(BERT), JobOptions(task="maskd-lm"))

    def test_a_mixture_of_experts_asks_no_data(self, config: Any) -> None:
        from estimator.device import DeviceProfile, Target
        from estimator.trace import trace

        fields = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4}
        job = load_job(config(fields), JobOptions(sequence_length=8, attn="eager", checkpointing=True))
        assert any("equal share" in note for note in job.notes)
        graph = trace(
            job, Target(device=DeviceProfile(name="cpu", kind="cpu", total_bytes=2**30), torch_version="2.13.0"), 2
        )
        first = [
            op
            for op in graph.ops
            if op.phase == "step0.forward" and op.module.endswith("layers.0.block_sparse_moe.experts.0.w1")
        ]
        # 2 x 8 tokens, two of four experts each: 8 tokens for every expert.
        assert [op.outputs[0].shape for op in first if op.name.startswith("aten.mm")] == [(8, 64)]

    def test_a_live_model_is_a_job(self, tmp_path: Path) -> None:
        text = f"from transformers import GPT2Config, GPT2LMHeadModel as M\nmodel = M(GPT2Config(**{GPT2!r}))\n"
        (tmp_path / "mine.py").write_text(text)
        take_step(load_job(f"{tmp_path}/mine.py:model", JobOptions(sequence_length=8)))


LIGHTNING = """
import torch, torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
try:
    import lightning as L
except ImportError:
    import pytorch_lightning as L

class Plain(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 4)
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, prog_bar=True)
        return {"loss": loss}
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        steps = self.trainer.estimated_stepping_batches
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=steps)}

class WithData(Plain):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(16, 8), torch.randint(4, (16,))), batch_size=8)

class NeedsTrainer(WithData):
    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).sum() * self.trainer.fit_loop.epoch_progress

class Two(WithData):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters()), torch.optim.SGD(self.parameters())]

class Manual(Two):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
    def training_step(self, batch):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.toggle_optimizer(optimizer)
            self.manual_backward(self.net(batch[0]).square().mean())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

def pair():
    return Plain(), lambda n: (torch.randn(n, 8), torch.randint(4, (n,)))
"""


class TestLightning:
    @pytest.fixture(autouse=True)
    def _needs_it(self) -> None:
        import_torchvision(required=False)
        try:
            import lightning  # noqa: F401
        except ImportError:
            pytest.importorskip("pytorch_lightning")

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "lit.py").write_text(LIGHTNING)
        return tmp_path / "lit.py"

    def test_its_own_step_optimizer_and_data_are_used_without_a_trainer(self, file: Path) -> None:
        job = load_job(f"{file}:WithData")
        model = job.model()
        optimizer = job.optimizer(list(model.parameters()))  # type: ignore[operator, misc]
        batch = next(iter(job.batch))
        job.loss(model, batch).backward()  # type: ignore[misc]
        optimizer.step()
        assert type(optimizer).__name__ == "AdamW"
        assert (batch[0].shape, model.net.weight.grad.shape) == ((8, 8), (4, 8))

    def test_a_live_module_is_copied_without_its_data(self, file: Path) -> None:
        job = load_job(f"{file}:pair")
        assert job.model().net.weight.device.type == "meta"
        assert job.batch(5)[0].shape == (5, 8)

    def test_manual_optimization_is_a_step_of_its_own(self, file: Path) -> None:
        job = load_job(f"{file}:Manual")
        model = job.model()
        before = model.net.weight.clone()
        job.step(model, None, next(iter(job.batch)))  # type: ignore[misc]
        assert not torch.equal(before, model.net.weight)

    def test_without_data_it_says_what_to_give(self, file: Path) -> None:
        said = message(f"{file}:Plain")
        assert "says nothing of its data" in said
        assert "return LitModel()" in said

    def test_a_module_that_needs_its_trainer_names_what_it_asks(self, file: Path) -> None:
        job = load_job(f"{file}:NeedsTrainer")
        with pytest.raises(SourceError) as caught:
            job.loss(job.model(), next(iter(job.batch)))  # type: ignore[misc]
        assert "self.trainer.fit_loop" in str(caught.value)
        assert "lit.py:30" in str(caught.value)

    def test_two_optimizers_want_manual_optimization(self, file: Path) -> None:
        job = load_job(f"{file}:Two")
        model = job.model()
        with pytest.raises(SourceError, match="gives 2 optimizers"):
            job.optimizer(list(model.parameters()))  # type: ignore[operator, misc]
