"""The command line: ``python -m undersong.services.registry api|worker|migrate|rotate-identity|new-seal-key``."""

from undersong.services.registry.settings import RegistrySettings
from undersong.services.registry.wiring import build_app, run_worker
from undersong.shared.web.program import SHARED_COMMANDS, Program

PROGRAM = Program("registry", RegistrySettings, build_app, run_worker, SHARED_COMMANDS)
main = PROGRAM.main

if __name__ == "__main__":
    main()
