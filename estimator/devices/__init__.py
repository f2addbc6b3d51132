"""What a job may run on: the catalogue of cards, the user's own profiles, and this machine."""

from __future__ import annotations

from estimator.devices.catalogue import find_device, load_profiles
from estimator.devices.context import context_interval
from estimator.devices.here import cpu_here, gpus_here, this_device, visible_here
from estimator.devices.resolve import is_card, is_this_machine, resolve_device

__all__ = [
    "context_interval",
    "cpu_here",
    "find_device",
    "gpus_here",
    "is_card",
    "is_this_machine",
    "load_profiles",
    "resolve_device",
    "this_device",
    "visible_here",
]
