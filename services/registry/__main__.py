"""The command line: ``python -m services.registry api|worker|migrate|rotate-identity|new-seal-key``."""

from services.registry.settings import RegistrySettings
from services.registry.wiring import build_app, run_worker
from shared.web.program import SHARED_COMMANDS, Program

PROGRAM = Program("registry", RegistrySettings, build_app, run_worker, SHARED_COMMANDS)
main = PROGRAM.main

if __name__ == "__main__":
    main()
