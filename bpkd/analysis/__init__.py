"""What a run cost and what it reached: complexity, run records, tables, figures."""
