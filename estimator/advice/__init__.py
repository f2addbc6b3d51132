"""What-if: the job traced again with each change that could buy a larger batch; `advise(job, device)` ranks them."""
