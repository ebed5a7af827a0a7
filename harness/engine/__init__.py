"""Planning and running: plan, base artefacts, workers, studies, forecasts, and the verbs of the command line.

Importing any of it imports no torch; only jobs in worker processes do.
"""
