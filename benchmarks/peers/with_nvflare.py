"""A side of ``compare.py``: NVFlare's simulator with its FedAvg recipe, two threads.

    .venv-nvflare/bin/python benchmarks/peers/with_nvflare.py FOLDER OUT

``nvflare_client.py`` is what its clients run.
"""

from pathlib import Path

import torch
import work
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from nvflare_client import Network, bare


def main() -> None:
    asked = work.asked()
    recipe = FedAvgRecipe(
        name="peers",
        model=Network(str(asked.folder)),
        min_clients=len(asked.sites),
        num_rounds=asked.settings.federation.rounds,
        train_script=str(Path(__file__).with_name("nvflare_client.py")),
        train_args=f"{asked.folder} {asked.out}",
    )
    recipe.execute(SimEnv(clients=asked.sites, num_threads=2, workspace_root=str(asked.out / "simulator")))
    (saved,) = asked.out.rglob("FL_global_model.pt")
    asked.done(asked.flat(bare(torch.load(saved, weights_only=False)["model"])))


if __name__ == "__main__":
    main()
