"""Declarative templates for code sandboxes: specs in, verified and recorded templates out."""

__version__ = "0.1.0"
