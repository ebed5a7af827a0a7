"""Statistics against simulated truth: what `python -m analysis.stats_check` runs; the tests do with fewer replicates."""
