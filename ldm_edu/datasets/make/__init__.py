"""Rebuild the shipped data from published packages: ``python -m ldm_edu.datasets.make`` (this is ``make data``)."""
