"""Measures what steps, messages and transfers take on this machine, on real workers behind a real scheduler."""
