"""What can go wrong with what a user hands over, and the program's exit statuses."""

from __future__ import annotations

DONE = 0
INVALID = 1
FAILED = 2
INTERRUPTED = 130


class UserError(ValueError):
    """A workflow, or a setting of it, that cannot be used; the text is for the user."""
