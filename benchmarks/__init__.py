"""What `make bench` runs: medians of three with their spread, both sides of a comparison in the same run."""
