"""The places that build templates and run sandboxes, each with an adapter loaded on demand."""
