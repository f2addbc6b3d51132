"""Put the helper module of these tests on the path; keep torch from starting threads for GPUs that are not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="package")
def _no_threads_of_autograd() -> Iterator[None]:
    """As traces do: without it a torch built for CUDA could not fork this process any more (`estimator.trace.isolate`)."""
    from estimator.trace.fakes import without_cuda_guard

    with without_cuda_guard():
        yield
