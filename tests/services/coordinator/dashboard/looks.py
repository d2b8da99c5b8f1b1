"""What a reader would see at once, asked of a page in Chromium."""

from pathlib import Path

from playwright.async_api import Page

_LOOKS = (Path(__file__).parent / "looks.js").read_text()


async def faults_of_look(page: Page) -> list[str]:
    """Return the labels of plots that stand on each other or off the page, and texts that are too faint to read."""
    found: list[str] = await page.evaluate(_LOOKS[_LOOKS.index("()") :])
    return found
