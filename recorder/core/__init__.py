"""What happens to frames and rows: pure functions and state, no clock, no I/O, no log."""
