"""Each way to reward in a file of its own; `benchmarks.fairness.experiment` runs them."""
