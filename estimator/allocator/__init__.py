"""PyTorch's CUDA caching allocator and the CPU's, replayed over a ledger. Needs no torch."""

from estimator.allocator.blocks import Block, SegmentEvent
from estimator.allocator.caching import Allocator
from estimator.allocator.config import AllocatorConfig
from estimator.allocator.cpu import replay_cpu
from estimator.allocator.history import History, read_history
from estimator.allocator.probe import Outcome, outcome_of, probe
from estimator.allocator.replay import Level, Oom, PhasePeak, Replay, Replayer, layout, replay
from estimator.allocator.snapshot import Frame, frames_of_ops, snapshot, write_snapshot

__all__ = [
    "Allocator",
    "AllocatorConfig",
    "Block",
    "Frame",
    "History",
    "Level",
    "Oom",
    "Outcome",
    "PhasePeak",
    "Replay",
    "Replayer",
    "SegmentEvent",
    "frames_of_ops",
    "layout",
    "outcome_of",
    "probe",
    "read_history",
    "replay",
    "replay_cpu",
    "snapshot",
    "write_snapshot",
]
