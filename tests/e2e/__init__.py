"""Tests of real parts: uv with a package index, kernels, a Docker engine, whole commands."""
