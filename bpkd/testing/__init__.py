"""Test suites that a package with its own distillers inherits; they need pytest, and nothing of bpkd imports them."""
