"""Adapters to other programs; each behind an extra."""
