"""What a node may know about the prompt it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Hidden(str, Enum):
    """What a schema can ask for; the value is the type of the hidden input."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"
    api_key_comfy_org = "API_KEY_COMFY_ORG"


class HiddenHolder:
    """Values by the names in `Hidden`; what was not asked for is None.

    Attributes:
        unique_id: The node's id.
        prompt: The whole prompt.
        extra_pnginfo: What goes with it into pictures.
        dynprompt: The graph as it is now, with generated nodes.
        auth_token_comfy_org: A secret of the user's.
        api_key_comfy_org: A secret of the user's.
    """

    def __init__(
        self,
        unique_id: str | None = None,
        prompt: Any = None,
        extra_pnginfo: Any = None,
        dynprompt: Any = None,
        auth_token_comfy_org: str | None = None,
        api_key_comfy_org: str | None = None,
        **others: Any,
    ) -> None:
        self.unique_id = unique_id
        self.prompt = prompt
        self.extra_pnginfo = extra_pnginfo
        self.dynprompt = dynprompt
        self.auth_token_comfy_org = auth_token_comfy_org
        self.api_key_comfy_org = api_key_comfy_org
        vars(self).update(others)

    def __getattr__(self, name: str) -> None:
        """Names of other versions are None; Python's own protocols stay unanswered."""
        if name.startswith("__"):
            raise AttributeError(name)

    @classmethod
    def from_dict(cls, d: Mapping[Any, Any] | None) -> HiddenHolder:
        """Take values by hidden type: "UNIQUE_ID" or ``Hidden.unique_id``."""
        names = {member.value: member.name for member in Hidden}
        given = {key.value if isinstance(key, Enum) else key: v for key, v in (d or {}).items()}
        return cls(**{names.get(key, str(key)): value for key, value in given.items()})
