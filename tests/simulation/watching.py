"""What lies somewhere only while a job runs is looked for again and again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watching(look: Callable[[], None]) -> Iterator[None]:
    """Look twenty times a second, in a thread, until the block ends."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
