"""The target `e2b`: the cloud, or a self-hosted cluster of it. The only room that knows the SDK."""
