"""Samples that vary in size: lengths of a data set, the largest batch by length, the batches that would run out."""
