"""Runs one workflow without a server: ``python main.py --run FILE``."""
