"""The benchmarks of `make bench`: medians of three with their spread, both sides of a comparison in one run."""
