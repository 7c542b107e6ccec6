"""The centre's Flower ServerApp."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common import settings
from common.settings import Settings
from server import campaign, pretrained
from server.campaign import Event, Observer, Outcome
from server.library import NetworkLibrary

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
                sites=sites,
                folder=folder,
                campaign=configuration.name,
                observer=observer,
                library=library,
            )
        )

    return server_app


def _log(event: Event) -> None:
    logging.getLogger("synofed.server").info("%s", event)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the campaign that the run's configuration names: ``config``, ``folder``, number of ``sites``."""
    folder = Path(str(context.run_config["folder"]))
    configuration = pretrained.resolved(settings.load(Path(str(context.run_config["config"]))))
    campaign.run(
        grid,
        configuration,
        sites=int(context.run_config["sites"]),
        folder=folder,
        campaign=configuration.name,
        observer=_log,
    )
