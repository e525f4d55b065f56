"""Tests with real parts: uv and an index, kernels, a Docker engine, whole commands."""
