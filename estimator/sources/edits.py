"""Changes that can be laid over any model: checkpointing, LoRA adapters, frozen parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING, Any

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.options import JobOptions, LoraOptions
from estimator.sources.words import did_you_mean, require

if TYPE_CHECKING:
    from torch import nn

EDIT_FIELDS = ("checkpointing", "lora", "freeze")


def edited(job: TrainingJob, options: JobOptions, done: frozenset[str] = frozenset()) -> TrainingJob:
    """The job with the edits that the options ask for made to its model when that is built.

    A live module is not touched: a copy of it without data is edited.

    Args:
        job: what is changed.
        options: its `checkpointing`, `lora` and `freeze` are followed.
        done: names of those that whoever made the job has followed already.
    """
    asked = {name: value for name, value in options.given(*EDIT_FIELDS).items() if name not in done}
    if not asked or asked == {"checkpointing": False}:
        return job
    wanted = JobOptions(**asked)
    return over_model(job, lambda model: apply(model, wanted))


def over_model(job: TrainingJob, edit: Callable[[nn.Module], nn.Module]) -> TrainingJob:
    """The job with its model passed through a function whenever it is built; a live module is copied first."""
    model = job.model
    return job.with_(model=lambda: edit(model() if _is_factory(model) else without_data(model)))


def apply(model: nn.Module, options: JobOptions) -> nn.Module:
    """Edit a freshly built model in place and return it (LoRA wraps it).

    Raises:
        SourceError: the model cannot be checkpointed, peft is absent or finds no layer, a pattern names nothing.
    """
    if options.checkpointing:
        checkpoint(model)
    if options.freeze:
        freeze(model, options.freeze)
    if options.lora is not None:
        model = add_lora(model, options.lora)
    return model


def freeze(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Turn gradients off for parameters whose name, or a module above whose name, a shell pattern matches.

    Raises:
        SourceError: a pattern matches no parameter.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        found = [name for name in parameters if _named_by(pattern, name)]
        if not found:
            modules = [name for name, _ in model.named_modules() if name]
            raise SourceError(
                "a pattern of parameters to freeze names none",
                got=pattern,
                where=type(model).__name__,
                allowed="shell patterns over names such as " + ", ".join(list(parameters)[:3]),
                hint=did_you_mean(pattern.strip("*."), chain(parameters, modules)),
            )
        for name in found:
            parameters[name].requires_grad_(False)


def _named_by(pattern: str, name: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:i]), pattern) for i in range(1, len(parts) + 1))


def add_lora(model: nn.Module, lora: LoraOptions) -> nn.Module:
    """Wrap the model by peft with low-rank adapters; everything else is frozen, as peft does.

    Raises:
        SourceError: peft is absent, or it finds no layer to adapt.
    """
    prepare_torchvision()
    peft = require("peft", "peft", "lora")
    config = peft.LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets) or None
    )
    try:
        wrapped: nn.Module = peft.get_peft_model(model, config)
    except ValueError as error:
        from torch import nn

        names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise SourceError(
            f"peft finds no layer to adapt: {error}", got=f"targets={'+'.join(lora.targets) or '(none)'}",
            allowed="names of linear layers: " + ", ".join(n for n in names if not n.isdigit()),
            where=type(model).__name__, hint="lora: r=16,targets=NAME+NAME",
        ) from None  # fmt: skip
    return wrapped


def prepare_torchvision() -> None:
    """Make torchvision importable if it is installed: libraries that are asked for next import it themselves."""
    from estimator.sources.torchvision_import import import_torchvision

    import_torchvision(required=False)


def checkpoint(model: Any) -> None:
    """Keep only the inputs of the model's blocks and compute what is inside them again in the backward pass.

    transformers' and timm's models are told to do it themselves. For any other, every child of a `ModuleList` or
    `Sequential` whose children are at least two of one class, and that lies in no such block itself, is a block.

    Raises:
        SourceError: the model has no such blocks, or says that it does not support it.
    """
    if hasattr(model, "gradient_checkpointing_enable"):
        try:
            model.gradient_checkpointing_enable()
        except ValueError as error:
            raise SourceError(f"the model cannot be checkpointed: {error}", where=type(model).__name__) from None
        return
    if hasattr(model, "set_grad_checkpointing"):
        try:
            model.set_grad_checkpointing(True)
        except (AssertionError, NotImplementedError) as error:
            raise SourceError(f"the model cannot be checkpointed: {error}", where=type(model).__name__) from None
        return
    blocks = repeated_blocks(model)
    if not blocks:
        raise SourceError(
            "the model has no repeated blocks to checkpoint",
            where=type(model).__name__,
            allowed="an nn.ModuleList or nn.Sequential of at least two modules of one class",
            hint="call torch.utils.checkpoint.checkpoint in its forward instead",
        )
    for block in blocks:
        block.forward = _checkpointed(block.forward)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost repeated blocks of a model, in order; stateless ones (activations) and leaves are none."""
    from torch import nn

    found: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        inner: set[int] = set()
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            kinds = [type(child) for child in module]
            blocks = [c for c in module if kinds.count(type(c)) > 1 and any(True for _ in c.children())]
            found.extend(blocks)
            inner = {id(b) for b in blocks}
        for child in module.children():
            if id(child) not in inner:
                search(child)

    search(model)
    return found


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    import torch
    from torch.utils.checkpoint import checkpoint as recompute

    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return recompute(forward, *args, use_reentrant=False, **kwargs)

    return call


def without_data(model: nn.Module) -> nn.Module:
    """A copy of a live module on meta: same parameters, buffers and ties, no memory; the module is only read."""
    from torch import nn

    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo)


def _is_factory(model: Any) -> bool:
    from torch import nn

    return callable(model) and not isinstance(model, nn.Module)
