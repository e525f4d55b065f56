"""Attempts to leave a confined sandbox, and the walls that stop them."""
