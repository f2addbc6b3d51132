"""What CPU kernels allocate besides their results, as torch's profiler sees it; one rule an op.

The rules were written from ATen's sources and checked op by op against the profiler (torch 2.13, x86, AVX-512).
"""

from estimator.scratch.cpu import elementwise as _elementwise  # noqa: F401  registers its rules
