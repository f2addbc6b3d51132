"""Lines of measured convolutions: what is read at a batch size asked, in between, beyond, and on another cuDNN."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from benchmarks.conv_field_networks import field_networks
from benchmarks.conv_layers import output
from benchmarks.conv_line_layers import line_calls, small_layers
from benchmarks.conv_lines import Point, runs
from benchmarks.conv_networks import networks
from benchmarks.conv_patch_networks import channels_last_networks, patch_networks
from benchmarks.conv_sample import BATCHES, LARGE_BATCHES
from benchmarks.conv_series_networks import series_networks, volume_networks
from benchmarks.conv_small_networks import small_networks
from benchmarks.conv_tracer import Tracer
from benchmarks.conv_turns import straightened, turned
from estimator.device import DeviceProfile, Target
from estimator.scratch import conv_forms, conv_lines, conv_workspace
from estimator.scratch.conv_call import CudnnConv

pytestmark = pytest.mark.pure
ASKED = (1, 2, 4, 8, 16, 32)
FORMS = (("none", ("bytes", 0)), ("copied", ("bytes", 16)), ("weights", ("bytes", 16)))


def call(batch: int, channels: int = 64) -> CudnnConv:
    x = (batch, channels, 56, 56)
    return CudnnConv("forward", "float32", False, x, (channels, channels, 3, 3), x, (1, 1), (1, 1), (1, 1), 1)


def target(**changes: Any) -> Target:
    device = DeviceProfile(name="card", kind="cuda", total_bytes=80 << 30, compute_capability=(8, 0),
                           multiprocessor_count=108)  # fmt: skip
    return Target(**{"device": device, "torch_version": "2.11.0", **changes})


def half_call(batch: int, channels: int = 64) -> CudnnConv:
    return dataclasses.replace(call(batch, channels), dtype="float16")


def lines(*texts: tuple[int, str], of: Callable[[int, int], CudnnConv] = call) -> conv_lines.Lines:
    """Lines of the layers with so many channels."""
    words = sorted(f"{conv_lines.fingerprint(of(1, channels))}{text}\n" for channels, text in texts)
    return conv_lines.Lines((9, 19), 108, ASKED, FORMS, "".join(words).encode())


def use(monkeypatch: pytest.MonkeyPatch, line: str, half: conv_lines.Lines | None = None) -> None:
    """The lines that are read: one, and those that float16 has of its own."""
    monkeypatch.setattr(conv_lines, "load", lambda capability, only="": half if only else lines((64, line)))


def copied(batch: int) -> int:
    """x and y are 64 x 56 x 56 x 4 B = 802,816 B a sample, w 64 x 64 x 9 x 4 B = 147,456 B; 16 B besides."""
    return 2 * 802_816 * batch + 147_456 + 16


def test_a_line_is_found_among_many() -> None:
    many = lines(*((channels, f"32 1:{channels % 3}") for channels in range(1, 200)))
    for channels in range(1, 200):
        assert conv_lines.find(many.text, conv_lines.fingerprint(call(5, channels))) == ["32", f"1:{channels % 3}"]
    assert conv_lines.find(many.text, conv_lines.fingerprint(call(5, 200))) is None
    assert conv_lines.find(b"", conv_lines.fingerprint(call(5, 200))) is None


def test_a_batch_size_that_was_asked_is_the_answer_within_the_allocators_step(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "32 1:0 4:1 16:2")
    for batch, size in ((1, 0), (2, 0), (4, copied(4)), (8, copied(8)), (16, 147_472), (32, 147_472)):
        assert conv_workspace.look_up(call(batch), target()) == (size, max(size - 512, 0), size + 512, "modelled")


def test_in_between_the_plan_is_that_of_the_sizes_around_where_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "32 1:1 32:0")
    found = conv_workspace.look_up(call(6), target())
    assert found.size_bytes == found.high_bytes - 512 == copied(6)
    assert found.low_bytes == 0  # 32, the third larger size, has no workspace


def test_in_between_two_plans_the_trees_is_taken_or_the_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "32 1:0 8:1")
    for guess, size in ((0, 0), (copied(6), copied(6)), (3_000_000, copied(6)), (1 << 30, copied(6))):
        monkeypatch.setattr(
            conv_workspace, "_by_tree",
            lambda call, capability, guess=guess: conv_workspace.Prediction(guess, 0, 1 << 40, "modelled"),
        )  # fmt: skip
        found = conv_workspace.look_up(call(6), target())
        assert (found.size_bytes, found.low_bytes) == (size, 0)
        assert found.high_bytes == max(copied(6), guess) + 512


def test_bytes_that_grow_with_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "32 1:1000+300 16:70000+0")
    assert conv_workspace.look_up(call(8), target()).size_bytes == 1000 + 8 * 300
    assert conv_workspace.look_up(call(16), target()).size_bytes == 70_000


def test_another_cudnn_or_card_keeps_the_trees_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "32 1:1")
    plain = conv_workspace._by_tree(call(8), (8, 0))
    assert conv_workspace.look_up(call(8), target(torch_version="2.13.0")).high_bytes == copied(8) + 512  # 9.20 is alike
    later = conv_workspace.look_up(call(8), target(torch_version="2.15.0"))
    assert later.size_bytes == copied(8)
    assert (later.low_bytes, later.high_bytes) == (
        min(copied(8) - 512, plain.low_bytes), max(copied(8) + 512, plain.high_bytes),
    )  # fmt: skip
    fewer = target().device.model_copy(update={"multiprocessor_count": 54})
    assert conv_workspace.look_up(call(8), target(device=fewer)).high_bytes == copied(8) + 512  # 8.0 does not count them
    hopper = fewer.model_copy(update={"compute_capability": (9, 0)})
    assert conv_workspace.look_up(call(8), target(device=hopper)).high_bytes >= copied(8)


def use_half(monkeypatch: pytest.MonkeyPatch, *own: tuple[int, str]) -> None:
    """Bfloat16 has copies, 32 samples at most, at 64 and at 128 channels; float16 has `own`."""
    known = lines((64, "32 1:1"), (128, "32 1:1"), of=half_call)
    half = lines(*own, of=half_call)
    monkeypatch.setattr(conv_lines, "load", lambda capability, only="": half if only else known)


def test_float16_has_its_own_line_else_that_of_bfloat16_and_both_bound_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16 bits x and y are 64 x 56 x 56 x 2 B = 401,408 B a sample, twice that at 128 channels."""
    use_half(monkeypatch, (64, "32 1:0 16:70000+0"))
    for batch, channels, size in ((8, 64, 0), (16, 64, 70_000), (8, 128, 16 + 2 * 8 * 802_816 + 128 * 128 * 9 * 2)):
        found = conv_workspace.look_up(half_call(batch, channels), target())
        assert found == (size, max(size - 512, 0), size + 512, "modelled")
    as_bfloat16 = dataclasses.replace(half_call(8), dtype="bfloat16")
    assert conv_workspace.look_up(as_bfloat16, target()).size_bytes == 16 + 2 * 8 * 401_408 + 64 * 64 * 9 * 2


def test_a_line_that_was_not_asked_in_float16_keeps_the_trees_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    use_half(monkeypatch, (64, ""), (128, "32 1:0"))
    found, tree = (
        conv_workspace.look_up(half_call(8), target()),
        conv_workspace._by_tree(half_call(8), (8, 0)),
    )
    size = 16 + 2 * 8 * 401_408 + 64 * 64 * 9 * 2
    assert found.size_bytes == size
    assert found.high_bytes == max(size + 512, tree.high_bytes)
    assert found.low_bytes == min(size - 512, tree.low_bytes)
    later = conv_workspace.look_up(half_call(8, 128), target(torch_version="2.15.0"))
    assert later.size_bytes == 0
    assert later.high_bytes == max(512, conv_workspace._by_tree(half_call(8, 128), (8, 0)).high_bytes)


def test_a_layer_with_a_line_in_float16_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    use_half(monkeypatch, (96, "32 1:0"))
    assert conv_workspace.look_up(half_call(8, 96), target()) == (0, 0, 512, "modelled")
    bfloat16 = dataclasses.replace(half_call(8, 96), dtype="bfloat16")
    assert conv_workspace.look_up(bfloat16, target()) == conv_workspace._by_tree(bfloat16, (8, 0))


def test_a_line_asked_at_every_batch_size_tells_two_forms_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits 0x11 of 16: remainders 0 and 4 have copies, the others nothing, from 3 samples on."""
    use(monkeypatch, "32* 1:2 3:0%16%11%1")
    for batch, size in ((1, 147_472), (2, 147_472), (3, 0), (4, copied(4)), (16, copied(16)), (20, copied(20)), (21, 0)):
        found = conv_workspace.look_up(call(batch), target())
        assert (found.size_bytes, found.high_bytes) == (size, size + 512), batch
    assert conv_workspace.look_up(call(36), target()).size_bytes == copied(36)
    assert conv_workspace.look_up(call(37), target()).size_bytes == 0


def test_beyond_the_largest_size_asked_its_plan_goes_on_and_the_trees_interval_is_taken_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, "32 1:0 8:1")
    tree = conv_workspace._by_tree(call(48), (8, 0))
    found = conv_workspace.look_up(call(48), target())
    assert found.size_bytes == copied(48)
    assert found.low_bytes <= min(tree.low_bytes, copied(48))
    assert found.high_bytes >= max(tree.high_bytes, copied(48))


def test_a_layer_without_a_line_is_told_by_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "32 1:1")
    assert conv_workspace.look_up(call(8, 65), target()) == conv_workspace._by_tree(call(8, 65), (8, 0))


@pytest.mark.parametrize("capability", [c for c in conv_workspace.CAPABILITIES if conv_lines.load(c)], ids=str)
def test_the_files_are_sorted_and_name_forms_they_have(capability: tuple[int, int]) -> None:
    read = conv_lines.load(capability)
    assert read is not None
    rows = read.text.decode().splitlines()
    assert len(rows) > 1000
    assert rows == sorted(rows)
    for row in rows[:: len(rows) // 500]:
        last, *parts = row[conv_lines.KEY :].split()
        assert int(last.split("*")[0]) in read.batches
        assert parts[0].startswith("1:")
        names = [part.split(":")[1] for part in parts]
        assert all("+" in name or int(name) < len(read.forms) for name in plain(names))


def plain(names: Iterable[str]) -> set[str]:
    """The forms that parts of a line name, those in turns one by one."""
    return {form for name in names for form in (name.split("%")[::3] if "%" in name else [name])}


@pytest.mark.parametrize("capability", [c for c in conv_workspace.CAPABILITIES if conv_lines.load(c)], ids=str)
def test_the_lines_of_float16_are_sorted_and_of_the_same_cudnn_and_card(capability: tuple[int, int]) -> None:
    read, half = conv_lines.load(capability), conv_lines.load(capability, "float16")
    assert read is not None
    assert half is not None
    assert (half.cudnn, half.multiprocessor_count, half.batches) == read[:3]
    rows = half.text.decode().splitlines()
    assert rows == sorted(rows)
    own = [row[conv_lines.KEY :].split() for row in rows if row[conv_lines.KEY :]]
    assert len(own) > 1000
    names = {part.split(":")[1] for _, *parts in own for part in parts}
    assert all("+" in name or int(name) < len(half.forms) for name in plain(names))


def test_runs_are_what_explains_most_batch_sizes() -> None:
    copies = [Point(b, call(b), copied(b)) for b in (1, 2, 4)]
    small = [Point(b, call(b), 0) for b in (8, 16)]
    odd = [Point(b, call(b), 5_000_001 + 1_000_003 * b) for b in (32, 64, 128)]
    alone = [Point(256, call(256), 987_654_321)]
    found = list(runs([*copies, *small, *odd, *alone]))
    assert [start for start, _ in found] == [1, 8, 32, 256]
    assert conv_forms.form_bytes(call(2), found[0][1]) == copied(2)  # type: ignore[arg-type]
    assert found[1:] == [(8, ("none", ("bytes", 0))), (32, "5000001+1000003"), (256, "987654321+0")]


def test_layers_of_the_networks_written_down_fit_together() -> None:
    kinds, count = set(), 0
    small = (*small_networks(), *field_networks(), *series_networks(), *volume_networks())
    for name, found in (*networks(), *patch_networks(), *channels_last_networks(), *small):
        kinds.add(name.split()[0])
        assert found, name
        for layer in found:
            count += 1
            assert output(layer.x[1:], layer) == layer.y[1:]
            assert layer.w[:2] == (layer.y[0], layer.x[0] // layer.groups)
    assert len(kinds) >= 35
    assert count > 20_000


def test_a_network_is_followed_through_kernels_of_two_sizes_transposed_ones_and_borders() -> None:
    """(41 + 40 - 41) // 2 + 1 = 21 rows, (11 + 10 - 11) // 2 + 1 = 6; (7 - 1) x 2 - 2 + 3 + 1 = 14 pixels."""
    t = Tracer()
    assert t.conv((1, 41, 11), 32, (41, 11), 2, (20, 5)) == (32, 21, 6)
    assert t.up((64, 7, 7), 32, 3, 2, 1, 1) == (32, 14, 14)
    assert t.conv(t.wrap((3, 30), 4), 8, 9, 1, 0) == (8, 30)
    assert t.conv((3, 5), 8, 7, 1, 0) == (8, -1)
    assert [(layer.x, layer.w, layer.y) for layer in t.found] == [
        ((1, 41, 11), (32, 1, 41, 11), (32, 21, 6)),
        ((32, 14, 14), (64, 32, 3, 3), (64, 7, 7)),
        ((3, 1, 38), (8, 3, 1, 9), (8, 1, 30)),
    ]


def test_small_layers_are_asked_again_where_their_line_ends_before_the_larger_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, forms = next(iter(small_layers("bfloat16").items()))
    monkeypatch.setattr("benchmarks.conv_line_layers.line_layers", lambda half, with_timm: {layer: forms})
    key = conv_lines.fingerprint(layer.at(1, "forward", "float32", False))
    largest = LARGE_BATCHES[-1]
    for words, is_asked in (("256 1:0", True), (f"{largest} 1:0", False), ("256* 1:0", False)):
        known = conv_lines.Lines((9, 19), 108, BATCHES, FORMS, f"{key}{words}\n".encode())
        calls = [call for _, call in line_calls("bfloat16", known, with_timm=False)]
        mine = [c.x[0] for c in calls if (c.kind, c.dtype) == ("forward", "float32")]
        assert mine == ([*BATCHES, *LARGE_BATCHES] if is_asked else [])
        assert len(calls) > len(mine)


def test_a_turn_is_sought_between_the_sizes_asked_and_read_back_as_asked_on_either_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copies up to 22 samples, nothing from 23 on: of 16 and 32, halving asks 24, 20, 22 and 23."""
    questions: list[int] = []

    def ask(batch: int) -> int:
        questions.append(batch)
        return copied(batch) if batch < 23 else 0

    words = turned(["32", "1:1", "32:0"], lines((64, "32 1:1 32:0")), call, ask)
    assert words == ["32", "1:1", "23:0"]
    assert questions == [24, 20, 22, 23]
    use(monkeypatch, " ".join(words))
    for batch, size in ((22, copied(22)), (23, 0)):
        found = conv_workspace.look_up(call(batch), target())
        assert found.size_bytes == size
        assert found.high_bytes - found.low_bytes <= 2 * conv_workspace.STEP
    assert conv_workspace.look_up(call(28), target()).size_bytes == 0
    assert turned(words, lines((64, " ".join(words))), call, ask) == words
    assert questions == [24, 20, 22, 23]


def test_a_turn_with_a_third_plan_between_stays_where_it_was() -> None:
    words = ["32", "1:1", "32:0"]
    assert turned(words, lines((64, "32 1:1 32:0")), call, lambda batch: 123_456_789) == words


def test_unexplained_workspaces_on_one_straight_line_become_that_line() -> None:
    """1,000 bytes and 70 a sample at 8, 16 and 32; half way, 12 and 24, on it too. At 4 there is another plan."""
    parts = ["32", "1:1", "4:9+0", "8:1560+0", "16:2120+0", "32:3240+0"]
    one = lines((64, " ".join(parts)))
    assert straightened(parts, one, lambda batch: 1000 + 70 * batch) == ["32", "1:1", "4:9+0", "8:1000+70"]
    assert straightened(parts, one, lambda batch: 123_456) == parts
