"""PyAV, imported when the first sound or film is touched: it is large."""

from __future__ import annotations

from typing import Any


def pyav() -> Any:
    """The module ``av``.

    Raises:
        RuntimeError: If it is not installed.
    """
    try:
        import av  # noqa: PLC0415 - large, and needed by few prompts
    except ImportError as err:
        raise RuntimeError(
            "Sound and film are read and written by PyAV, which cannot be imported. Install it "
            "with `pip install av`."
        ) from err
    return av
