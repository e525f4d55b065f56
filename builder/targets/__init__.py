"""The places that build and run: an adapter and a sandbox each, loaded when asked for."""
