"""Weights on disk: ours, and the layouts of published ones."""
