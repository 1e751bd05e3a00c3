"""Trouble for real workers while they serve, drawn by a seed: what is lost, how fast it is noticed and made good."""
