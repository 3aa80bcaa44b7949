"""What rsbatch costs and how fast it is, as figures held against goals; `python -m benchmarks` (`make bench`).

A benchmark is never a test: nothing here fails, it prints. A ratio is measured within one interleaved run
(A B A B …), so that a busy machine slows both sides alike.
"""
