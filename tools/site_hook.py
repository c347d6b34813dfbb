"""What mkdocs.yml has done to pages besides: docstrings lose the roles of reStructuredText."""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Turns ``:func:`load``` into the name alone.

    Args:
        html: A page as Markdown made it.

    Returns:
        The page as it is published.
    """
    return re.sub(r":(?:func|class|meth|mod|data):<code>(?:~?[\w.]+\.)?(\w+)", r"<code>\1", html)
