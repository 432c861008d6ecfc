"""Helpers for packs whose nodes ask services."""
