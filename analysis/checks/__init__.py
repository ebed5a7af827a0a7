"""Statistics against simulated truth: what `python -m analysis.stats_check` runs; tests run fewer replicates."""
