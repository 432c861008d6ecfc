"""The command line of ``python -m comfy.loading``; the only part of the package that prints."""
