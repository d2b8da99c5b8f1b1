"""``python -m tests.simulation.planted <bugs> <module> <arguments>``: a service with bugs that a test must catch."""

import runpy
import sys
from collections.abc import Callable
from typing import Any


def counts_twice() -> None:
    """The first update of each round is added to the sum again, in place of the second: the weights still fit."""
    from undersong.services.aggregator.contributions.folding import Folding

    add, first = Folding.add, {}

    def twice(self: Any, contribution: Any, path: Any) -> None:
        place = first.setdefault(self.manifest.round_id, (contribution, path))
        if len(self.folded) == 1:
            add(self, *place)
            self.folded.add(contribution.id)
        else:
            add(self, contribution, path)

    Folding.add = twice  # type: ignore[method-assign]


def forgets_after_the_receipt() -> None:
    """The first update of each round is acknowledged and never counted."""
    from undersong.services.aggregator.contributions.updates import Updates
    from undersong.shared.wire.updates import ReceiptDoc

    accept, seen = Updates.accept, set()

    async def forget(self: Any, stored: Any, site_id: Any, digest: Any, body: Any, signature: Any = None) -> Any:
        if stored.round.id in seen or stored.round.min_cohort < 2:  # a first model has one site
            return await accept(self, stored, site_id, digest, body, signature)
        seen.add(stored.round.id)
        blob = await self._blobs.put_stream(aiter(body), limit=body.length, expect=digest, expect_size=body.length)
        values = {"round_id": stored.round.id, "site_id": site_id, "digest": digest, "size": blob.size}
        return self._receipt(ReceiptDoc(accepted_at="2026-01-01T00:00:00+00:00", **values))

    Updates.accept = forget  # type: ignore[method-assign]


def keeps_bodies() -> None:
    """Bodies of ended rounds stay."""
    from undersong.services.aggregator.rounds.lifecycle import Rounds

    async def nothing(self: Any, round_id: Any) -> None:
        return None

    Rounds.scrub = nothing  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug for bug in (counts_twice, forgets_after_the_receipt, keeps_bodies)
}


def main() -> None:
    """Plant the bugs and be the module."""
    _, bugs, module, *arguments = sys.argv
    for name in bugs.split(","):
        BUGS[name]()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
