"""Guidance beyond the difference of two prompts: further passes of the network, other formulas."""
