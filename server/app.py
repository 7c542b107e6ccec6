"""The centre's Flower ServerApp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.fab import CAMPAIGN
from common.settings import Settings
from server import deployed
from server.campaign import campaign, evaluation
from server.campaign.campaign import Observer, Outcome
from server.campaign.ensemble import Ensemble
from server.campaign.library import NetworkLibrary
from server.campaign.received_receipts import Receipts
from server.campaign.roster import Roster

Finished = Callable[[Outcome], None]


def build(
    configuration: Settings,
    *,
    sites: int,
    folder: Path,
    observer: Observer,
    finished: Finished,
    library: NetworkLibrary | None = None,
) -> ServerApp:
    """A ServerApp that runs one campaign in ``folder`` and hands over its outcome."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        outcome = campaign.run(
            grid,
            configuration,
            roster=Roster.anyone(sites),
            folder=folder,
            campaign=configuration.name,
            observer=observer,
            library=library,
        )
        if configuration.campaign.evaluation:
            ensemble = Ensemble.of(
                outcome, configuration, folder=folder, campaign=configuration.name, home=None
            )
            evaluation.evaluate(
                grid,
                ensemble,
                run=folder,
                sites=outcome.sites,
                keys=lambda: outcome.keys,
                receipts=Receipts(folder),
                nodes=lambda: {site: (node, "") for site, node in outcome.nodes.items()},
            )
        finished(outcome)

    return server_app


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the campaign that the run's configuration names, of the centre's home."""
    deployed.run(grid, name=str(context.run_config[CAMPAIGN]))
