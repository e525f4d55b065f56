"""Tests that need neither a network, an engine nor a kernel."""
