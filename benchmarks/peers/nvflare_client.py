"""What a client of NVFlare runs in ``with_nvflare.py``, and the module that its server keeps."""

from collections.abc import Mapping
from pathlib import Path

import work
from nvflare import client as flare
from torch import Tensor, nn

from common.networks.build import network
from common.networks.layout import load

PREFIX = "network."


class Network(nn.Module):
    """The work's network at its start, as NVFlare makes it anew from its one argument."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder  # NVFlare reads a constructor's arguments from attributes of their names
        asked = work.Work(Path(folder), Path(folder))
        self.network = network(asked.spec, asked.settings.network)
        load(self.network, asked.start())


def bare(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the network itself has them."""
    return {name.removeprefix(PREFIX): values for name, values in named.items()}


def main() -> None:
    asked = work.asked()
    flare.init()
    site = flare.get_site_name()
    while flare.is_running():
        received = flare.receive()
        trained, exams = asked.train(site, asked.flat(bare(received.params)), received.current_round + 1)
        params = {f"{PREFIX}{name}": values for name, values in asked.named(trained).items()}
        weight = {"NUM_STEPS_CURRENT_ROUND": exams}  # of NVFlare's average
        flare.send(
            flare.FLModel(params=received.params | params, params_type=flare.ParamsType.FULL, meta=weight)
        )


if __name__ == "__main__":
    main()
