"""Loaders of other projects' networks, losses and pipelines: for comparisons only."""
