"""From run records to tables, tests, figures and the report page; the cost of a network."""
