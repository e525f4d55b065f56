"""Tests against stand-ins for servers: E2B, a package index, an object store, webhooks."""
