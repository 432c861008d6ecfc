"""Parameters in the query of a request."""

from __future__ import annotations


def whole_number(name: str, given: str) -> int:
    """The value of a parameter.

    Args:
        name: Of the parameter.
        given: Its text.

    Raises:
        ValueError: It is no whole number; the text says so to the client.
    """
    try:
        return int(given)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, not {given[:40]!r}.") from None
