"""Example jobs, with torch alone: each file has `job()`, of a realistic size, and `tiny()`, for a CPU and a blink."""
