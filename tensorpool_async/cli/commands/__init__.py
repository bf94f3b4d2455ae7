"""The commands of `tpa`. Each is a coroutine that returns its exit code."""
