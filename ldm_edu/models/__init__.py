"""The networks: each takes its config and nothing else."""
