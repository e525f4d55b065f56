"""Tests that need no network, engine or kernel."""
