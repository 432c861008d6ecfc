"""Sampling put together from parts: noise, guider, sampler, noise levels, and the run."""
