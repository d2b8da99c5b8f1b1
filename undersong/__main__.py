"""The program `undersong`, also as `python -m undersong`."""

import gc


def main() -> None:
    """Run the command line.

    While modules are imported nothing becomes garbage: looking for it would take a quarter of a short command's time.
    """
    gc.disable()
    from undersong import cli

    gc.freeze()
    gc.enable()
    cli.main()


if __name__ == "__main__":
    main()
