"""AttentionChoice: which attention implementation flags, packages and devices allow."""

from __future__ import annotations

import importlib.util
from typing import Any

from comfy.devices import Kind

_OTHERS = (
    "use_split_cross_attention",
    "use_quad_cross_attention",
    "use_sage_attention",
    "use_flash_attention",
)


def has_xformers(flags: Any, device_kind: Kind) -> bool:
    """Whether the package xformers is there, allowed, and of use on the run device."""
    if flags.disable_xformers or device_kind not in ("cuda", "hip"):
        return False
    return importlib.util.find_spec("xformers") is not None


def uses_pytorch(flags: Any, has_other: bool) -> bool:
    """Whether torch's own attention is taken: if asked for, or nothing else is.

    Args:
        flags: The parsed command line.
        has_other: Whether xformers can be used.
    """
    if flags.use_pytorch_cross_attention:
        return True
    return not has_other and not any(getattr(flags, name) for name in _OTHERS)


class AttentionChoice:
    """The switches; variables that custom nodes assign are looked up in the public module."""

    def __init__(self, face: Any, flags: Any) -> None:
        """Prepare; looks for no package.

        Args:
            face: The module that holds the variables.
            flags: The parsed command line.
        """
        self._face = face
        self._flags = flags

    def sage_attention_enabled(self) -> bool:
        """Whether ``--use-sage-attention`` is given."""
        return bool(self._flags.use_sage_attention)

    def flash_attention_enabled(self) -> bool:
        """Whether ``--use-flash-attention`` is given."""
        return bool(self._flags.use_flash_attention)

    def xformers_enabled(self) -> bool:
        """Whether xformers is used."""
        if self._flags.use_pytorch_cross_attention or self._face.cpu_mode():
            return False
        return bool(self._face.XFORMERS_IS_AVAILABLE)

    def xformers_enabled_vae(self) -> bool:
        """Whether xformers is used in the VAE."""
        return self.xformers_enabled() and bool(self._face.XFORMERS_ENABLED_VAE)

    def pytorch_attention_enabled(self) -> bool:
        """Whether torch's own attention is used."""
        return bool(self._face.ENABLE_PYTORCH_ATTENTION)

    def pytorch_attention_enabled_vae(self) -> bool:
        """Whether torch's own attention is used in the VAE."""
        return self.pytorch_attention_enabled()

    def pytorch_attention_flash_attention(self) -> bool:
        """Whether torch's own attention needs no memory that grows with the square of the length."""
        kinds = (self._face.is_nvidia, self._face.is_amd, self._face.is_intel_xpu)
        return self.pytorch_attention_enabled() and any(ask() for ask in kinds)
