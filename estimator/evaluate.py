"""Memory at one batch size: the model's ledger through the device's allocator, told as a `BatchEstimate`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from estimator.allocator.policy import ROUND_LARGE
from estimator.device import DeviceProfile
from estimator.fit import MemoryModel
from estimator.ledger import LINE_OF, Category, Ledger
from estimator.replays import Replays
from estimator.result import (
    BatchEstimate,
    CategoryLine,
    Confidence,
    DeviceBytes,
    Interval,
    PhaseLine,
    phase_kind,
)
from estimator.units import format_bytes

NO_LIMIT = None
ALONE = 4
"""Bounds of single calls that are tried alone: a choice, as each is one more replay of a batch size."""
LEDGERS_KEPT = 4
"""A batch size is looked at several times running; the ledger of a large program takes megabytes."""


class Evaluator:
    """Evaluates batch sizes of one fitted job on one device, each replay done once."""

    def __init__(
        self, model: MemoryModel, device: DeviceProfile, context: tuple[int, int, int], replays: Replays, *,
        nccl: tuple[int, int, int] = (0, 0, 0),
    ) -> None:  # fmt: skip
        self.model, self.device = model, device
        self._whole, self._short = replays
        self.nccl = nccl
        """Low, likely and high bytes of the process group's communicator; they count in what is outside, as the
        context does."""
        self.context_low, self.context, self.context_high = (a + b for a, b in zip(context, nccl, strict=True))
        self._replays: dict[tuple[int, str, int | None], Any] = {}
        self._outcomes: dict[tuple[int, str, int | None], Any] = {}
        self._crowded_at: dict[tuple[int, str, int], Any] = {}
        self._failed_last = "high"
        self._ledgers: dict[tuple[int, str], Ledger] = {}

    def model_at(self, n: int) -> MemoryModel:
        """The model that says what batch size `n` takes: the one model, where lines lead to every size."""
        return self.model

    # ------------------------------------------------------------ replays

    def ledger(self, n: int, which: str = "typical") -> Ledger:
        """What the job asks of the allocator."""
        key = (n, which)
        if key not in self._ledgers:
            while len(self._ledgers) >= LEDGERS_KEPT:
                del self._ledgers[next(iter(self._ledgers))]
            self._ledgers[key] = self.model_at(n).at(n, which)
        return self._ledgers[key]

    def unlimited(self, n: int, which: str = "typical") -> Any:
        """The replay without a limit."""
        return self._under(n, self._same_if_exact(n, which), NO_LIMIT)

    def limited(self, n: int, which: str) -> Any:
        """The replay under what the device has for the allocator; the same as unlimited where that suffices."""
        key = self._same_if_exact(n, which)
        limit = self.limit_bytes(which)
        free = self._replays.get((n, key, NO_LIMIT))
        return free if free is not None and free.peak_reserved_bytes <= limit else self._under(n, key, limit)

    def _under(self, n: int, which: str, limit: int | None) -> Any:
        """The replay under a limit. Where the limit is never felt, it is the replay without one too."""
        key = (n, which, limit)
        found = self._replays.get(key)
        if found is None:
            found = self._replays[key] = self._whole(self.ledger(n, which), limit, False)
            if not found.num_refused:
                self._replays.setdefault((n, which, NO_LIMIT), found)
        return found

    def unlimited_peak_reserved_bytes(self, n: int, which: str) -> int:
        """The most that is reserved without a limit."""
        return int(self._outcome(n, self._same_if_exact(n, which), NO_LIMIT).peak_reserved_bytes)

    def _outcome_at(self, n: int, which: str) -> Any:
        """What the replay comes to under what the device has for the allocator at that end of the interval."""
        return self._outcome(n, self._same_if_exact(n, which), self.limit_bytes(which))

    def _outcome(self, n: int, which: str, limit: int | None) -> Any:
        """What a replay comes to; that without a limit is also that under any limit which it does not reach."""
        free = self._outcomes.get((n, which, NO_LIMIT))
        if free is not None and (limit is None or free.peak_reserved_bytes <= limit):
            return free
        key = (n, which, limit)
        found = self._outcomes.get(key)
        if found is None:
            found = self._outcomes[key] = self._short(self.ledger(n, which), limit)
            if not found.num_refused:
                self._outcomes.setdefault((n, which, NO_LIMIT), found)
        return found

    def _same_if_exact(self, n: int, which: str) -> str:
        return which if which == "typical" or self.model_at(n).has_interval(n) else "typical"

    def limit_bytes(self, which: str) -> int:
        """Bytes the allocator may reserve: the capacity less the context at that end of its interval."""
        return max(0, self.device.capacity_bytes - self._context(which))

    def _context(self, which: str) -> int:
        return {"low": self.context_low, "high": self.context_high}.get(which, self.context)

    def fits(self, n: int, which: str = "high") -> bool:
        """Whether batch size `n` runs without OutOfMemoryError at that end of the interval.

        At the high end it must run with less as well: with other sizes the blocks fall otherwise, and near the limit
        a batch may run with the largest workspaces that does not with the likely ones. Where a likely workspace
        is refused, cuDNN's next plan needs an unknown part of what there is: it must run with nothing of it and with all.
        The workspaces that are known least are each tried at their bounds alone, too: one that is less leaves blocks that
        another does not fit (measured: a network of instance norms, 189 samples, one workspace of 98,432 B in the place of
        417 MiB; at both ends of the whole interval it runs, on the simulated card it runs out).
        (What is refused at the high end is mostly a size that only the bound has; what is granted then, the other ends have.)
        Source: aten/src/ATen/native/cudnn/Conv_v8.cpp, try_configs: OutOfMemoryError is caught, the next plan tried (2.11).
        """
        if which != "high":
            return self._fits_at(n, which)
        ends = self._ends(n)
        # Where one batch size fails, its neighbours do: what order the ends are asked in changes no answer.
        for end in sorted(ends, key=lambda end: end != self._failed_last):
            if not self._runs_at(n, end):
                self._failed_last = end
                return False
        return True

    def may_fit(self, n: int, which: str = "high") -> bool:
        """Whether it runs at that end of the interval, whatever it does at the others; `fits` needs this too."""
        return self._fits_at(n, which)

    def _ends(self, n: int) -> tuple[str, ...]:
        """The ends of the interval at which a batch size must run, from the high one on; then bounds of single calls."""
        model = self.model_at(n)
        if not model.has_interval(n):
            return ("high",)
        return ("high", "typical", "low", *model.bounds_alone(n, ROUND_LARGE)[:ALONE])

    def _failing_end(self, n: int) -> str | None:
        """The first end of the interval, from the high one on, at which it runs out; None where it runs at each."""
        return next((end for end in self._ends(n) if not self._runs_at(n, end)), None)

    def _runs_at(self, n: int, which: str) -> bool:
        """Whether it runs at that end; of the likely sizes also with all there is in the place of what was refused."""
        key = self._same_if_exact(n, which)
        if not self._fits_at(n, which) or key != "typical" or not self._outcome_at(n, which).num_survived:
            return self._fits_at(n, which)
        return self._crowded(n, key, self.limit_bytes(which)) is None

    def _crowded(self, n: int, which: str, limit: int) -> Any:
        """Where it runs out if what is refused, and may be, takes all there is instead; None where it runs."""
        key = (n, which, limit)
        if key not in self._crowded_at:
            self._crowded_at[key] = self._whole(self.ledger(n, which), limit, True).oom
        return self._crowded_at[key]

    def _fits_at(self, n: int, which: str) -> bool:
        return self._context(which) <= self.device.capacity_bytes and bool(self._outcome_at(n, which).fits)

    def fits_without_retries(self, n: int) -> bool:
        """Whether it runs at the high end without the allocator ever giving segments back."""
        if self.context_high > self.device.capacity_bytes:
            return False
        found = self._outcome_at(n, "high")
        return bool(found.peak_reserved_bytes <= self.limit_bytes("high") and not found.num_refused)

    # ------------------------------------------------------------ the record

    def device_at(self, n: int) -> DeviceBytes:
        """What `at` says of the device at batch size `n`."""
        fits = self.fits(n)
        shown = self._outcome_at(n, "typical") if fits else None
        if shown is None or not shown.fits:
            shown = self._outcome(n, "typical", NO_LIMIT)
        device_bytes = shown.peak_reserved_bytes + self.context
        return DeviceBytes(device_bytes, self._interval(n, fits, device_bytes), fits)

    def _interval(self, n: int, fits: bool, device_bytes: int) -> Interval:
        end = self._same_if_exact(n, "high")
        high = self._outcome(n, end, self.limit_bytes("high") if fits else NO_LIMIT).peak_reserved_bytes
        low = self.unlimited_peak_reserved_bytes(n, "low")
        return Interval(
            low_bytes=min(low + self.context_low, device_bytes), high_bytes=max(high + self.context_high, device_bytes)
        )

    def at(self, n: int) -> BatchEstimate:
        """The whole record at batch size `n`. Where it does not fit, the peaks are those it would need."""
        fits = self.fits(n)
        shown = self.limited(n, "typical") if fits else self.unlimited(n)
        if shown.oom is not None:
            shown = self.unlimited(n)
        ledger = self.ledger(n, "typical")
        lines = tuple(self._lines(ledger, shown, n))
        device_bytes = shown.peak_reserved_bytes + self.context
        index = shown.peak_event
        event = ledger.events[index] if ledger.events else None
        op = self.model_at(n).ops[event.op] if event is not None and event.op >= 0 else None
        return BatchEstimate(
            batch_size=n,
            fits=fits,
            peak_requested_bytes=shown.peak_requested_bytes,
            peak_allocated_bytes=shown.peak_allocated_bytes,
            peak_reserved_bytes=shown.peak_reserved_bytes,
            device_bytes=device_bytes,
            device_interval=self._interval(n, fits, device_bytes),
            capacity_bytes=self.device.capacity_bytes,
            headroom_bytes=self.device.capacity_bytes - device_bytes,
            num_alloc_retries=shown.num_alloc_retries,
            lines=lines,
            peak_phase=ledger.phase_of(index) if event is not None else "",
            peak_module=op.module if op is not None else "",
            peak_op=op.name if op is not None else "",
            peak_event=index,
            oom_at="" if fits else self.where_it_ran_out(n),
            phases={p.name: p.peak_allocated_bytes for p in shown.phases},
            phase_lines=tuple(
                PhaseLine(
                    name=p.name,
                    kind=phase_kind(p.name),
                    peak_requested_bytes=p.peak_requested_bytes,
                    peak_allocated_bytes=p.peak_allocated_bytes,
                    peak_reserved_bytes=p.peak_reserved_bytes,
                )
                for p in shown.phases
            ),
        )

    def where_it_ran_out(self, n: int) -> str:
        """Phase, op and module of the allocation that fails, at the first end of the interval where one does."""
        end = self._failing_end(n)
        if end is None or self.limit_bytes(end) == 0:
            return ""
        key, limit = self._same_if_exact(n, end), self.limit_bytes(end)
        oom = self._under(n, key, limit).oom or (self._crowded(n, key, limit) if key == "typical" else None)
        if oom is None:
            return ""
        event = self.ledger(n, key).events[oom.event]
        op = self.model_at(n).ops[event.op] if event.op >= 0 else None
        place = f"{op.name} of module {op.module or '(root)'}" if op is not None else "an allocation outside any op"
        bound, _, alone = end.partition("@")
        where = f", with one workspace at its {bound} end and all others as likely" if alone else ""
        return f"{oom.phase}: {place} asks for {format_bytes(oom.size_bytes)}{where}"

    def _lines(self, ledger: Ledger, shown: Any, n: int) -> Iterable[CategoryLine]:
        live = _live_at(ledger, shown.peak_event)
        modelled_scratch = self.device.kind == "cuda" or self.model_at(n).has_interval(n)
        confidence: dict[str, Confidence] = (
            {"temporaries": "modelled", "library_workspaces": "modelled"} if modelled_scratch else {}
        )
        for category, name in LINE_OF.items():
            _, per_sample = self.model_at(n).bytes_of(category)
            slope = int(per_sample) if category in (Category.ACTIVATION, Category.INPUT) else 0
            yield CategoryLine(
                name=name,
                size_bytes=live.get(category, 0),
                per_sample_bytes=slope,
                confidence=confidence.get(name, "exact"),
            )
        requested = sum(live.values())
        allocated = shown.peak_allocated_bytes
        modelled: Confidence = "modelled" if self.device.kind == "cuda" else "exact"
        yield CategoryLine(name="allocator_rounding", size_bytes=allocated - requested, confidence=modelled)
        yield CategoryLine(
            name="allocator_fragmentation", size_bytes=shown.peak_reserved_bytes - allocated, confidence=modelled
        )
        exact = self.context_low == self.context == self.context_high
        yield CategoryLine(
            name="cuda_context",
            size_bytes=self.context - self.nccl[1],
            confidence="exact" if exact else "assumed",
            note=self.device.sources.get("context_bytes", ""),
        )
        if self.nccl[2]:
            yield CategoryLine(
                name="nccl", size_bytes=self.nccl[1], confidence="assumed",
                note=f"of one process group, between {format_bytes(self.nccl[0])} and {format_bytes(self.nccl[2])} "
                "(estimator/devices/nccl.py)",
            )  # fmt: skip


def _live_at(ledger: Ledger, index: int) -> dict[Category, int]:
    """Requested bytes by category after event `index`."""
    live: dict[Category, int] = {}
    for is_alloc, _, size_bytes, category, _ in ledger.events[: index + 1]:
        live[category] = live.get(category, 0) + (size_bytes if is_alloc else -size_bytes)
    return live
