"""What paths say, and names made of text."""

import hashlib
import re


def is_url(path: str) -> bool:
    """Whether a path names its file system, as ``s3://lake/x`` does, and not a local folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path) is not None


def digest(*parts: str) -> str:
    """A short, stable name for some text: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
