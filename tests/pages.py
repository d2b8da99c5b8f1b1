"""Commands on pages, as a reader copies them."""

import re


def sh_commands(page: str) -> list[str]:
    """Return every line of the page's blocks that are marked as sh."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]
