"""What measures the estimator: cases, recorded truth, comparisons, peers and speed."""
