"""Tests of template-builder."""
