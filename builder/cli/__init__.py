"""`template-builder`: arguments to words and exit codes. The only owner of typer."""

from builder.cli.app import main

__all__ = ["main"]
