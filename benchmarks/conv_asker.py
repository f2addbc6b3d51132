"""cuDNN asked in this process, without a card: what the tables of convolution workspaces are measured with."""

from __future__ import annotations

import sys

from estimator.device import DeviceProfile, Target
from estimator.scratch import cudnn_deviceless, cudnn_worker
from estimator.scratch.conv_call import CudnnConv

MULTIPROCESSORS = {(7, 5): 40, (8, 0): 108, (8, 6): 82, (8, 9): 128, (9, 0): 132, (10, 0): 148, (12, 0): 170}
"""T4, A100, RTX 3090, RTX 4090, H100, B200, RTX 5090. Source: profiles/."""


class Asker:
    """cuDNN in this process, told of a card of one compute capability.

    Raises:
        SystemExit: no cuDNN is installed, or not all of its engines would take part.
    """

    def __init__(self, capability: tuple[int, int]) -> None:
        device = DeviceProfile(name="card", kind="cuda", total_bytes=80 << 30, compute_capability=capability,
                               multiprocessor_count=MULTIPROCESSORS[capability])  # fmt: skip
        library = cudnn_deviceless.find_cudnn()
        if library is None:
            sys.exit("no cuDNN is installed: pip install batch-estimator[cudnn]")
        self.cudnn = cudnn_worker.Cudnn(library, cudnn_deviceless.find_preloads())
        if not (self.cudnn.has_matmul and self.cudnn.has_compiled):
            sys.exit("cuBLASLt, NVRTC and libcuda.so.1 are wanted: without them some engines do not take part")
        target = Target(device=device, torch_version="2.11.0")
        self.card = cudnn_worker.make_card(self.cudnn, cudnn_deviceless.describe_card(target))
        self.version = self.cudnn.version

    def workspace(self, call: CudnnConv) -> int | None:
        """Bytes of the first plan's workspace, None where no engine takes the convolution."""
        question = {name: getattr(call, name) for name in cudnn_deviceless.ASKED}
        found = cudnn_worker.answer(self.cudnn, self.card, question | {"deterministic": False, "first": True})
        return found.get("workspace")
