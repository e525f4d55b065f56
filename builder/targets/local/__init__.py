"""The target `local`: environments made by uv, sandboxes that are Jupyter kernels."""
