"""Statistics against simulated truth: what `python -m analysis.stats_check` runs; tests do with fewer replicates."""
