"""E2B's webhooks: register them, receive events of sandboxes, and record usage."""
