"""Faults of every kind against the engine, counted: `make chaos`, and a short set inside `make test`.

A trial without torch (stub.py) runs through the real store, worker, launch and executor in real processes, which are
killed, stopped, starved of disk and fed with damage; after each fault the same command runs again, and the folder must
be that of an undisturbed run (invariants.py). Every check also runs on a build that is broken on purpose (broken.py)
and must see it. The long set trains (training.py).
"""
