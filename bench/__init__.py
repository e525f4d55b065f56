"""How fast it is: always a ratio of the medians of two things that are run side by side.

The two sides are run in turns (A B, B A, A B …) on one machine at one moment, so that what slows
the machine down slows both. Nothing here fails for being slow: a figure beside its target is the
result.
"""
