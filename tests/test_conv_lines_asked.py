"""Lines of convolutions made by asking: where float16 differs, and where plans come and go with the batch size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.conv_every import Filler, every, is_told
from benchmarks.conv_float16 import Maker, is_cudnns_in_float16_alone
from benchmarks.conv_layers import Layer
from estimator.scratch import conv_forms, conv_lines
from estimator.scratch.conv_call import CudnnConv

pytestmark = pytest.mark.pure
ASKED = (1, 2, 4, 8, 16, 32)
FORMS = (("none", ("bytes", 0)), ("copied", ("bytes", 16)), ("weights", ("bytes", 16)))


def call(batch: int) -> CudnnConv:
    return layer_of(64).at(batch, "forward", "float32", False)


def half_call(batch: int) -> CudnnConv:
    return dataclasses.replace(call(batch), dtype="float16")


def copied(batch: int) -> int:
    """x and y are 64 x 56 x 56 x 4 B = 802,816 B a sample, w 64 x 64 x 9 x 4 B = 147,456 B; 16 B besides."""
    return 2 * 802_816 * batch + 147_456 + 16


class Cudnn:
    """Stands for cuDNN: copies in bfloat16's layers; in float16 nothing from `turn` samples on; keeps the questions."""

    def __init__(self, turn: int) -> None:
        self.turn, self.asked = turn, list[CudnnConv]()

    def __call__(self, call: CudnnConv) -> int:
        self.asked.append(call)
        form = FORMS[1] if call.x[0] < self.turn else FORMS[0]
        return conv_forms.form_bytes(call, form)


def layer_of(channels: int, kernel: int = 3, groups: int = 1) -> Layer:
    x, padding = (channels, 56, 56), (kernel // 2,) * 2
    return Layer(x, (channels, channels // groups, kernel, kernel), x, (1, 1), padding, (1, 1), groups)


@pytest.mark.parametrize("turn", [1000, 23])
def test_lines_of_float16_are_kept_where_they_differ(turn: int) -> None:
    """Where float16 turns at 23 samples, the last size of copies is 22; a layer without a line is not asked."""
    line = f"{conv_lines.fingerprint(half_call(1))}32 1:1\n"
    known = conv_lines.Lines((9, 19), 108, ASKED, FORMS, line.encode())
    cudnn = Cudnn(turn)
    maker = Maker(cudnn, known)
    maker.add(layer_of(64), "forward", False)
    maker.add(layer_of(80), "forward", False)
    assert {c.x[1] for c in cudnn.asked} == {64}
    text = maker.content(["0" * 12])
    if turn == 1000:
        assert text == "0" * 12 + "\n"
        return
    own = known._replace(forms=tuple(maker.forms), text=text.encode())
    for batch in (1, 22, 23, 32):
        found, is_asked = conv_lines.look_up_float16(half_call(batch), known, own)
        assert is_asked
        assert found is not None
        assert found.next_to == [conv_forms.form_bytes(half_call(batch), FORMS[int(batch < 23)])]


def test_float16_is_asked_only_where_lines_have_changed_since() -> None:
    """64 channels stand as they stood, 128 were asked anew, 80 were never asked; 96 have float16's own line."""

    def text(*lines: tuple[int, str]) -> bytes:
        keys = ((conv_lines.fingerprint(layer_of(n).at(1, "forward", "float16", False)), words) for n, words in lines)
        return "".join(sorted(f"{key}{words}\n" for key, words in keys)).encode()

    since = conv_lines.Lines((9, 19), 108, ASKED, FORMS, text((64, "32 1:1"), (80, "32 1:1"), (96, "32 1:1"), (128, "8 1:1")))
    known = since._replace(text=text((64, "32 1:1"), (80, "32 1:1"), (96, "32 1:1"), (128, "32 1:1")))
    own = since._replace(text=text((80, ""), (96, "32 1:0"), (128, "8 1:0")))
    cudnn = Cudnn(23)
    maker = Maker(cudnn, known, since, own)
    for channels in (64, 80, 96, 128):
        maker.add(layer_of(channels), "forward", False)
    assert {c.x[1] for c in cudnn.asked} == {128}
    found = maker.content(line[: conv_lines.KEY] for line in known.text.decode().splitlines())
    words = {line[: conv_lines.KEY]: line[conv_lines.KEY :] for line in found.splitlines()}
    key = {n: conv_lines.fingerprint(layer_of(n).at(1, "forward", "float16", False)) for n in (64, 80, 96, 128)}
    assert key[64] not in words
    assert words[key[80]] == ""
    assert words[key[96]] == "32 1:0"
    assert words[key[128]].startswith("32 1:")


def test_depthwise_layers_that_only_float16_gives_to_cudnn_are_asked() -> None:
    """PyTorch gives cuDNN kernels of 1, 3 and 5 from 32 channels on, `_use_cudnn_depthwise`."""
    asked = {
        (channels, kernel): is_cudnns_in_float16_alone(layer_of(channels, kernel, channels))
        for channels, kernel in ((64, 3), (32, 5), (16, 3), (64, 7))
    }
    assert asked == {(64, 3): True, (32, 5): True, (16, 3): False, (64, 7): False}
    assert not is_cudnns_in_float16_alone(layer_of(64, 3, 2))
    assert not is_cudnns_in_float16_alone(layer_of(64, 3, 1))


def full_tiles(batch: int) -> int:
    """An invented cuDNN: copies below 7 samples, then at three remainders of sixteen."""
    return copied(batch) if batch % 16 in (3, 4, 5) or batch < 7 else 0


def test_what_comes_and_goes_with_the_batch_size_is_asked_and_read_back_everywhere() -> None:
    forms = {form: number for number, form in enumerate(FORMS)}
    words = every(64, call, full_tiles, forms)
    assert words[0] == "64*"
    assert sum("%" in word for word in words) == 1
    assert len(words) <= 3
    line = f"{conv_lines.fingerprint(call(1))}{' '.join(words)}\n"
    read = conv_lines.Lines((9, 19), 108, ASKED, tuple(forms), line.encode())
    for batch in range(1, 65):
        found = conv_lines.look_up(call(batch), read)
        assert found is not None
        assert found.next_to == found.all == [full_tiles(batch)], batch
    assert is_told(call, full_tiles, read, range(1, 65))
    further = every(512, call, full_tiles, forms, (128, 256, 384, 512))
    assert further[0] == "512*256"
    assert conv_lines.batches_asked(further, (*ASKED, 384, 512)) == [*range(1, 257), 384, 512]
    assert not is_told(call, copied, read)


def test_a_line_that_tells_its_probes_is_left_and_float16_follows_one_asked_everywhere(tmp_path: Path) -> None:
    """Products of 64 channels with the channels outermost; float16 keeps bfloat16's new line where it agrees all along."""
    layer = layer_of(64, 1)

    def cudnn(call: CudnnConv) -> int:
        turns = call.dtype == "bfloat16" or (call.dtype == "float16" and call.kind != "data")
        return 0 if turns and call.x[0] % 2 else conv_forms.form_bytes(call, FORMS[1])

    head = {"capability": [8, 0], "cudnn": 91900, "multiprocessors": 108, "batches": ASKED, "count": 0, "forms": FORMS,
            "source": "measured: 0 convolutions"}  # fmt: skip
    keys = {
        (dtype, kind): conv_lines.fingerprint(layer.at(1, kind, dtype, False))
        for dtype in ("float32", "bfloat16") for kind in ("forward", "data", "weight")
    }  # fmt: skip
    (tmp_path / "8.0.lines").write_text(
        "\n".join([json.dumps(head), *sorted(f"{key}32 1:1" for key in keys.values())]) + "\n"
    )
    (tmp_path / "8.0.float16.lines").write_text(json.dumps(head) + "\n")
    filler = Filler(cudnn, tmp_path, "8.0")
    for dtype in ("float32", "bfloat16", "float16"):
        for kind in ("forward", "data"):
            filler.add(layer, kind, dtype, False)  # type: ignore[arg-type]
    filler.write()
    known, own = (conv_lines.read((tmp_path / f"8.0.{n}lines").read_bytes()) for n in ("", "float16."))
    assert conv_lines.find(known.text, keys["float32", "forward"]) == ["32", "1:1"]
    assert conv_lines.find(known.text, keys["bfloat16", "weight"]) == ["32", "1:1"]
    for kind in ("forward", "data"):
        assert (conv_lines.find(known.text, keys["bfloat16", kind]) or [""])[0] == "32*"
        for dtype in ("bfloat16", "float16"):
            for batch in range(1, 33):
                at = layer.at(batch, kind, dtype, False)  # type: ignore[arg-type]
                found = (
                    conv_lines.look_up_float16(at, known, own)[0]
                    if dtype == "float16"
                    else conv_lines.look_up(at, known)
                )
                assert found is not None
                assert found.next_to == [cudnn(at)]
    assert len(own.text.splitlines()) == 1
