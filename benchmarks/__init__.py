"""Measurements that need more than one tool of tools/."""
