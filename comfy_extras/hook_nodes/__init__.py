"""Nodes of hooks, by what they work on."""
