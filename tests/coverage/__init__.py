"""How much of each framework a model file covers: every class, saved, and loaded elsewhere.

    python -m tests.coverage               all families; writes docs/coverage.md
    python -m tests.coverage torch_nn      one, to look at

A family is a module here with a `FAMILY`. Each of its cases is saved with an example in one
process, and loaded and replayed, to the last bit, in a fresh one.
"""
