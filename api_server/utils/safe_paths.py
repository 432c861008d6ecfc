"""The guard of names in requests, where routes look for it; `app` below needs it too."""

from __future__ import annotations

from utils.safe_paths import below as below
from utils.safe_paths import inside as inside
