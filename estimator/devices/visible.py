"""Which cards a CUDA program would see, by CUDA_VISIBLE_DEVICES.

Source: CUDA C++ Programming Guide, CUDA Environment Variables; MIG User Guide, Device Enumeration and CUDA Visible
Devices; torch/cuda/__init__.py, _parse_visible_devices and _transform_uuid_to_ordinals (2.13).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from estimator.devices.nvml import Card


def visible_cards(cards: Sequence[Card], variable: str | None) -> list[Card]:
    """Give the cards, or slices of cards in MIG mode, that `CUDA_VISIBLE_DEVICES` lets through, in its order.

    Unset shows all. An entry is a number, or a (shortened) UUID of a card or of a slice; the first entry that names
    nothing ends the list, and an entry that comes twice empties it. A card in MIG mode stands for its slices.

    CUDA itself opens only one slice at a time; all are listed here, so that one can be chosen.
    """
    if variable is None:
        return [device for card in cards for device in _usable(card)]
    visible: list[Card] = []
    seen: list[Card] = []
    for entry in variable.split(","):
        card = _named(cards, entry.strip())
        if card is None:
            break
        if card in seen:
            return []
        seen.append(card)
        visible += _usable(card)
    return visible


def _usable(card: Card) -> list[Card]:
    return list(card.slices) if card.in_mig_mode else [card]


def _named(cards: Sequence[Card], entry: str) -> Card | None:
    if entry.startswith(("GPU-", "MIG-")):
        known = cards if entry.startswith("GPU-") else [piece for card in cards for piece in card.slices]
        found = [card for card in known if card.uuid.startswith(entry) or card.legacy_uuid.startswith(entry)]
        return found[0] if len(found) == 1 else None
    number = re.match(r"\+?([0-9]+)", entry)  # CUDA reads as strtoul does: what follows the number is ignored
    index = int(number[1]) if number else -1
    return cards[index] if 0 <= index < len(cards) else None
