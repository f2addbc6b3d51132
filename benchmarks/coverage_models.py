"""Which models the coverage is counted over: torchvision's and timm's own lists, transformers' model types, peft."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMM_LEAST = 250
"""Architectures of timm at least: one of every family, then more of the families that have more."""


@dataclass(frozen=True)
class Row:
    """One model to be traced: a job's specification with its options, or the name of a peft set-up."""

    group: str
    name: str
    spec: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.group}/{self.name}"


GROUPS = ("torchvision", "timm", "transformers", "peft", "large")


def rows(groups: Sequence[str], configs: Path) -> Iterator[Row]:
    """Every row of the groups, in their order.

    Args:
        groups: names of `GROUPS`.
        configs: folder to write transformers' configs into; it is only written to for the groups that need them.
    """
    made = {"torchvision": _torchvision, "timm": _timm, "peft": _peft}
    for group in groups:
        if group in made:
            yield from made[group]()
        elif group == "transformers":
            from benchmarks.coverage_configs import OPTIONS, write_configs

            for name, folder in write_configs(configs):
                yield Row(group, name, f"hf:{folder}", OPTIONS.get(name, {}))
        elif group == "large":
            from benchmarks.coverage_configs import write_llama_70b

            folder = write_llama_70b(configs)
            for name, options in (
                ("llama-70b", {"precision": "bf16"}),
                ("llama-70b-lora", {"precision": "bf16", "lora": "r=16,targets=q_proj+v_proj"}),
            ):
                yield Row(group, name, f"hf:{folder}", options)


def _torchvision() -> Iterator[Row]:
    from benchmarks.vision import models

    for name in models().list_models():
        yield Row("torchvision", name, f"torchvision:{name}")


def _timm() -> Iterator[Row]:
    for name in timm_names():
        yield Row("timm", name, f"timm:{name}")


def _peft() -> Iterator[Row]:
    from benchmarks.coverage_peft import SETUPS

    for name in SETUPS:
        yield Row("peft", name)


def timm_names() -> list[str]:
    """At least one architecture of every family of timm, and `TIMM_LEAST` of them in all.

    A family is a module of `timm.models` and the word that a name begins with in it (`vit`, `resnext`, `regnetx`).
    Within a family the first name in natural order is taken: mostly the smallest model. Then the second of each
    family, until there are enough.
    """
    from benchmarks.vision import settle

    settle()
    import timm

    families: dict[tuple[str, str], list[str]] = {}
    for module in timm.list_modules():
        for name in sorted(timm.list_models(module=module), key=_natural):
            word = re.match(r"[a-z]+", name)
            families.setdefault((module, word[0] if word else name), []).append(name)
    chosen: list[str] = []
    turn = 0
    while len(chosen) < TIMM_LEAST or turn == 0:
        more = [names[turn] for names in families.values() if len(names) > turn]
        if not more:
            break
        chosen += more
        turn += 1
    return list(dict.fromkeys(chosen))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
