"""The command line: ``python -m undersong.services.inference api|check``."""

from undersong.services.inference.settings import InferenceSettings
from undersong.services.inference.wiring import check, start
from undersong.shared.web.program import Command, Program

PROGRAM = Program(
    "inference",
    InferenceSettings,
    start,
    commands={"check": Command("verify the model file and its evidence, and end", check)},
)
main = PROGRAM.main

if __name__ == "__main__":
    main()
