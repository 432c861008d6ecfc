"""A key and a certificate for this machine, for tests of encrypted connections."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate for 127.0.0.1, signed by itself.

    Args:
        folder: Gets ``key.pem`` and ``cert.pem``.

    Returns:
        Their paths. The test is skipped where the program openssl is not there.
    """
    if shutil.which("openssl") is None:
        pytest.skip("the program openssl is not here")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate
