"""Measurements: `python -m benchmarks.NAME` from the repository's folder; docs/results/benchmarks.md explains each."""
