"""The walls of confined sandboxes, on the side of the application."""
