"""E2B's webhooks: what it tells of sandboxes' lives, received and kept."""
