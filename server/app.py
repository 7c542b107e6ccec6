"""The centre's Flower ServerApp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.fab import CAMPAIGN
from common.settings import Settings
from server import deployed
from server.campaign import campaign
from server.campaign.campaign import Observer, Outcome
from server.campaign.library import NetworkLibrary
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
        finished(
            campaign.run(
                grid,
                configuration,
                roster=Roster.anyone(sites),
                folder=folder,
                campaign=configuration.name,
                observer=observer,
                library=library,
            )
        )

    return server_app


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the campaign that the run's configuration names, of the centre's home."""
    deployed.run(grid, name=str(context.run_config[CAMPAIGN]))
