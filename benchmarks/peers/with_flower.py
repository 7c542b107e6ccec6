"""A side of ``compare.py``: Flower's own simulation on Ray with its FedAvg, two clients at once.

python benchmarks/peers/with_flower.py FOLDER OUT
"""

import work
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client, server = ClientApp(), ServerApp()
asked = work.asked()


@client.train()
def train(message: Message, context: Context) -> Message:
    site = asked.sites[int(context.node_config["partition-id"])]
    content, answer = message.content, RecordDict()
    server_round = content.config_records["config"]["server-round"]
    assert isinstance(server_round, int)
    flat = asked.flat(content.array_records["arrays"].to_torch_state_dict())
    trained, exams = asked.train(site, flat, server_round)
    answer["arrays"] = ArrayRecord(asked.named(trained))
    answer["metrics"] = MetricRecord({"num-examples": exams})
    return Message(content=answer, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=len(asked.sites))
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(asked.named(asked.start())),
        num_rounds=asked.settings.federation.rounds,
    )
    asked.done(asked.flat(result.arrays.to_torch_state_dict()))


if __name__ == "__main__":
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=len(asked.sites),
        backend_config={
            "init_args": {"num_cpus": 2, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
