"""The command line: ``python -m undersong.services.keys api|worker|migrate|bootstrap|…``, and ``helper…`` for the
helper, ``custodian…`` for a custodian.
"""

import sys
from collections.abc import Sequence

from undersong.services.keys.commands import bootstrap, new_operator_token, new_seal_key, reseal_all
from undersong.services.keys.custodian import wiring as custodian
from undersong.services.keys.custodian.settings import CustodianSettings
from undersong.services.keys.helper import wiring as helper
from undersong.services.keys.helper.settings import HelperSettings
from undersong.services.keys.settings import KeysSettings
from undersong.services.keys.wiring import build_app, run_worker
from undersong.shared.web.program import Command, Program
from undersong.shared.wire.custodian import CUSTODIAN
from undersong.shared.wire.helper import HELPER

PROGRAM = Program(
    "keys",
    KeysSettings,
    build_app,
    run_worker,
    {
        "bootstrap": Command(
            "first start: create the authority and write the first tokens", writes=bootstrap, migrates=True
        ),
        "new-operator-token": Command("replace the operator's token; earlier ones end", writes=new_operator_token),
        "new-seal-key": Command("encrypt every secret at rest with a new key", new_seal_key),
        "reseal": Command(
            "encrypt every secret at rest with the first key of a key file written elsewhere", reseal_all
        ),
    },
)
HELPER_PROGRAM = Program(
    HELPER,
    HelperSettings,
    helper.build_app,
    commands={"restored": Command("void every round, after its database was restored", helper.restored, migrates=True)},
    package=helper.PACKAGE,
    migrate="python -m undersong.services.keys helper-migrate",
)
CUSTODIAN_PROGRAM = Program(
    CUSTODIAN,
    CustodianSettings,
    custodian.build_app,
    commands={
        "restored": Command("void every round, after its database was restored", custodian.restored, migrates=True)
    },
    package=custodian.PACKAGE,
    migrate="python -m undersong.services.keys custodian-migrate",
)
CUSTODIAN_COMMANDS = {"custodian": "api", "custodian-migrate": "migrate", "custodian-restored": "restored"}
HELPER_COMMANDS = {"helper": "api", "helper-migrate": "migrate", "helper-restored": "restored"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command of the keys service, of the helper or of a custodian: other processes, stores and identities."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for program, commands in ((HELPER_PROGRAM, HELPER_COMMANDS), (CUSTODIAN_PROGRAM, CUSTODIAN_COMMANDS)):
        if words and words[0] in commands:
            program.main([commands[words[0]], *words[1:]], prog=f"python -m undersong.services.keys {words[0]}")
            return
    others = f"The helper's: {', '.join(HELPER_COMMANDS)}. A custodian's: {', '.join(CUSTODIAN_COMMANDS)}."
    PROGRAM.main(words, epilog=others)


if __name__ == "__main__":
    main()
