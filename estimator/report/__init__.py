"""What a person or a program reads of an `Estimate`: text, JSON, failures, progress."""
