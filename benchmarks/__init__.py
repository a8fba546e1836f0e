"""Measurements: `python -m benchmarks.NAME` from the repository's folder; docs/benchmarks.md explains each."""
