"""Serves a given load with real workers, so that it can be held against a simulation of the same."""
