"""The command line: ``python -m undersong.services.aggregator api|worker|migrate|rotate-identity|new-seal-key``."""

from undersong.services.aggregator.settings import AggregatorSettings
from undersong.services.aggregator.wiring import build_app, run_worker
from undersong.shared.web.program import SHARED_COMMANDS, Program

PROGRAM = Program("aggregator", AggregatorSettings, build_app, run_worker, SHARED_COMMANDS)
main = PROGRAM.main

if __name__ == "__main__":
    main()
