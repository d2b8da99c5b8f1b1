"""The command line: ``python -m undersong.services.coordinator api|worker|migrate|bootstrap|bump-epoch|…``."""

from undersong.services.coordinator.commands import bootstrap, bump_epoch
from undersong.services.coordinator.settings import CoordinatorSettings
from undersong.services.coordinator.wiring import build_app, run_worker
from undersong.shared.web.program import SHARED_COMMANDS, Command, Program

PROGRAM = Program(
    "coordinator",
    CoordinatorSettings,
    build_app,
    run_worker,
    {
        "bootstrap": Command("create the first admin and its token; safe to repeat", writes=bootstrap),
        "bump-epoch": Command("after restoring a backup: agents refuse what they answered before", bump_epoch),
        **SHARED_COMMANDS,
    },
)
main = PROGRAM.main

if __name__ == "__main__":
    main()
