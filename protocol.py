"""Numbers of the binary messages to pages."""

from __future__ import annotations


class BinaryEventTypes:
    """The first four bytes of a binary message, a big-endian number."""

    PREVIEW_IMAGE = 1
    """Format (1 JPEG, 2 PNG) and the bytes of a picture."""

    UNENCODED_PREVIEW_IMAGE = 2
    """Never sent: a picture on its way to become one of the others."""

    TEXT = 3
    """Length of a node's id, the id, a text."""

    PREVIEW_IMAGE_WITH_METADATA = 4
    """Length of a JSON text, the text, the bytes of a picture."""
