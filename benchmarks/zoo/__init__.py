"""Example jobs: each file has `job()` (a realistic size) and `tiny()` (runs on a CPU in a blink); they need torch alone."""
