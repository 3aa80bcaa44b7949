"""Tries to make rsbatch pay twice or lose what was paid for: each row breaks the world in another way.

    python -m torture                      all rows in full; prints a table, writes torture/results.md
    python -m torture nights kills         only these rows
    python -m torture nights --seed 4711   one case again: what a failure prints to replay it
    python -m torture --short              the short forms, as `make test` runs them

Rule: a row counts honestly: a state is counted once, a part that cannot be tried on this machine is said loudly
and is not a pass, and every failure comes with the one command that replays it.
"""
