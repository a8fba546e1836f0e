"""Comparisons and searches that consist of several runs, and their reports."""
