"""Bytes on disk: files of weights, mapped into memory, written whole, and never trusted."""
