"""Blocks that every network here is built of."""
