"""Many runs as one piece of work: comparisons, searches and their reports."""
