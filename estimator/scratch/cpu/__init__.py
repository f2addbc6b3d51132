"""What CPU kernels allocate besides their results, as torch's profiler sees it; one rule an op.

The rules were written from ATen's sources and checked op by op against the profiler (torch 2.13, x86, AVX-512).
"""

from estimator.scratch.cpu import attention as _attention  # noqa: F401  registers its rules
from estimator.scratch.cpu import convolution as _convolution  # noqa: F401
from estimator.scratch.cpu import copies as _copies  # noqa: F401
from estimator.scratch.cpu import elementwise as _elementwise  # noqa: F401
from estimator.scratch.cpu import indexing as _indexing  # noqa: F401
from estimator.scratch.cpu import losses as _losses  # noqa: F401
from estimator.scratch.cpu import matmul as _matmul  # noqa: F401
from estimator.scratch.cpu import normalization as _normalization  # noqa: F401
from estimator.scratch.cpu import reduction as _reduction  # noqa: F401
from estimator.scratch.cpu import rnn as _rnn  # noqa: F401
