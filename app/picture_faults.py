"""What damaged pictures do to those who open them."""

from __future__ import annotations

import struct

from PIL import Image

BAD_PICTURE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""What PIL raises for files that are no pictures, or damaged ones."""
