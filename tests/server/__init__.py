"""Tests against servers of ours: E2B's, an index, an object store, webhooks."""
