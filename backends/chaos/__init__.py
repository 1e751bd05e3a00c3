"""Trouble for real workers, drawn by a seed, while they serve: what is lost, and how fast it is noticed and made good."""
