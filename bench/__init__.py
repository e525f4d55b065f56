"""Benchmarks: each compares the medians of two programs that run side by side.

The two sides take turns (A B, B A, A B …) on one machine, so anything that slows the machine down
slows both. A benchmark never fails for being slow: it reports the figure beside its target.
"""
