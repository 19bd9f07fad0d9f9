"""Which scorers there are, by what the workers announce of themselves."""

from __future__ import annotations

from api.fleet_poller import FleetPoller
from common.errors import ScorerUnavailableError
from common.fleet import FleetReader
from common.model_catalog import ModelCatalog
from common.scorers import ScorerCard, not_found, reference, why_unserved

RETRY_AFTER_S = 10.0


class Scorers:
    """Finds the card of a scorer that a request names."""

    def __init__(self, poller: FleetPoller, reader: FleetReader, catalog: ModelCatalog) -> None:
        self._poller = poller
        self._reader = reader
        self._catalog = catalog

    async def find(self, name: str, param: str = "model") -> tuple[ScorerCard, str]:
        """The card of a scorer, and the id of the model whose workers run it.

        While no worker is there, what the last ones had counts: a job may wait for the next.

        Args:
            name: Without its type.
            param: The request's field that names it.

        Raises:
            ScorerNotFoundError: No worker has it.
            ScorerUnavailableError: No worker that has it can use it.
            RedisUnavailableError: Redis is away.
        """
        fleet = self._poller.fleet
        workers = () if fleet is None else fleet.workers
        reasons = [worker.scorers[name] for worker in workers if name in worker.scorers]
        card = await self._reader.scorer(name)
        # A worker that is about to leave, or has just begun, tells of no scorer at all.
        if not reasons and (card is None or any(worker.scorers for worker in workers)):
            raise not_found(name, param)
        if reasons and None not in reasons:
            raise ScorerUnavailableError(str(reasons[0]), param=param, retry_after_s=RETRY_AFTER_S)
        if card is None:  # Redis was emptied; the workers tell it again within seconds
            raise ScorerUnavailableError(
                f"Scorer '{reference(name)}' is not announced yet",
                param=param,
                retry_after_s=RETRY_AFTER_S,
            )
        return card, self._server_of(card, param)

    def _server_of(self, card: ScorerCard, param: str) -> str:
        if card.served_by not in [entry.model for entry in self._catalog.entries]:
            raise ScorerUnavailableError(
                why_unserved(card.name, card.encoder), param=param, retry_after_s=RETRY_AFTER_S
            )
        return card.served_by
