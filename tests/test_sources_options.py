"""What may be said about a job, on a command line or in a file of another tool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estimator.errors import SourceError
from estimator.sources import JobOptions, LoraOptions, options_from_file

pytestmark = pytest.mark.pure


def test_lora_is_read_from_its_text() -> None:
    options = JobOptions(lora="r=16,alpha=32,targets=q_proj+v_proj")
    assert options.lora == LoraOptions(r=16, alpha=32, targets=("q_proj", "v_proj"))


@pytest.mark.parametrize("text", ["rank=3", "r", "r=0", "alpha=-1"])
def test_lora_text_that_does_not_hold_is_an_error(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        JobOptions(lora=text)
    assert "lora" in str(caught.value)


def test_every_problem_of_the_options_is_named_at_once() -> None:
    with pytest.raises(SourceError) as caught:
        JobOptions(image_size=-1, precision="half", colour="red")
    text = str(caught.value)
    assert all(part in text for part in ("image_size", "precision", "'half'", "colour"))


def test_one_pattern_is_as_good_as_a_list() -> None:
    assert JobOptions(freeze="encoder.*").freeze == ("encoder.*",)


def test_options_laid_over_others_win_and_keep_all_notes() -> None:
    over = JobOptions(precision="bf16", notes="a").over(JobOptions(precision="fp32", image_size=64, notes="b"))
    assert (over.precision, over.image_size, over.notes) == ("bf16", 64, ("b", "a"))


def write(folder: Path, name: str, fields: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(fields))
    return path


def test_training_arguments_give_batch_precision_optimizer_and_clipping(tmp_path: Path) -> None:
    fields = {
        "output_dir": "out", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "fp16": True,
        "optim": "adafactor", "max_grad_norm": 0.5, "gradient_checkpointing": True,
    }  # fmt: skip
    options = options_from_file(write(tmp_path, "args.json", fields))
    assert options == JobOptions(
        batch_size=4, accumulation_steps=8, precision="amp-fp16", grad_scaler=True, optimizer="adafactor",
        grad_clip=0.5, checkpointing=True,
    )  # fmt: skip


def test_training_arguments_that_are_not_given_are_transformers_defaults(tmp_path: Path) -> None:
    """per_device_train_batch_size=8, optim="adamw_torch_fused", max_grad_norm=1.0."""
    options = options_from_file(write(tmp_path, "args.json", {"output_dir": "out"}))
    assert options == JobOptions(batch_size=8, optimizer="adamw_fused", grad_clip=1.0)


def test_no_clipping_is_no_clipping(tmp_path: Path) -> None:
    assert options_from_file(write(tmp_path, "a.json", {"max_grad_norm": 0.0})).grad_clip is None


def test_yaml_is_read_too(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "args.yaml"
    path.write_text("output_dir: out\nbf16: true\nper_device_train_batch_size: 2\n")
    options = options_from_file(path)
    assert (options.precision, options.batch_size) == ("amp-bf16", 2)


def test_deepspeed_gives_its_fields_and_says_what_is_not_modelled(tmp_path: Path) -> None:
    fields = {
        "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": "auto", "gradient_clipping": 1.0,
        "bf16": {"enabled": True}, "optimizer": {"type": "AdamW"},
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
    }  # fmt: skip
    options = options_from_file(write(tmp_path, "ds.json", fields))
    assert (options.batch_size, options.accumulation_steps, options.grad_clip) == (2, None, 1.0)
    assert (options.precision, options.optimizer) == ("amp-bf16", "adamw")
    text = " ".join(options.notes)
    assert all(part in text for part in ("ZeRO stage 3 is not modelled", "offload_optimizer", "masters"))


def test_a_deepspeed_file_named_by_training_arguments_is_read_as_well(tmp_path: Path) -> None:
    write(tmp_path, "ds.json", {"zero_optimization": {"stage": 2}, "gradient_clipping": "auto"})
    options = options_from_file(write(tmp_path, "args.json", {"bf16": True, "deepspeed": "ds.json"}))
    assert options.precision == "amp-bf16"
    assert any("ZeRO stage 2" in note for note in options.notes)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"optim": "adamw_torch_fusd"}, ("adamw_torch_fusd", "did you mean adamw_torch_fused")),
        ({"bf16": True, "fp16": True}, ("bf16 and fp16",)),
        ({"colour": "red"}, ("neither", "colour", "per_device_train_batch_size")),
        ([1, 2], ("no mapping", "list")),
    ],
)
def test_a_file_that_says_nothing_usable_is_an_error(tmp_path: Path, fields: object, parts: tuple[str, ...]) -> None:
    path = write(tmp_path, "args.json", fields)
    with pytest.raises(SourceError) as caught:
        options_from_file(path)
    assert all(part in str(caught.value) for part in (*parts, str(path)))


def test_a_file_that_does_not_parse_or_exist_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text("{")
    with pytest.raises(SourceError, match="does not parse"):
        options_from_file(tmp_path / "args.json")
    with pytest.raises(SourceError) as caught:
        options_from_file(tmp_path / "arg.json")
    assert "did you mean args.json" in str(caught.value)
