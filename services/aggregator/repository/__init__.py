"""All SQL of the aggregator, a class for each group of tables. Rows stay inside; frozen values come out."""
