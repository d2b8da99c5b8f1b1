"""FedAvg over clients that train nothing; prints each round's start and end."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Announcing(FedAvg):
    """FedAvg that says when a round begins and ends."""

    def configure_train(self, server_round, *args, **kwargs):
        """Announce, then do as FedAvg does."""
        print(f"NULLROUND begin {server_round}", flush=True)
        return super().configure_train(server_round, *args, **kwargs)

    def aggregate_train(self, server_round, replies):
        """Aggregate as FedAvg does, then announce."""
        result = super().aggregate_train(server_round, replies)
        print(f"NULLROUND end {server_round}", flush=True)
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured number of rounds."""
    config = context.run_config
    clients = int(config["clients"])
    strategy = Announcing(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=clients,
        min_evaluate_nodes=0,
        min_available_nodes=clients,
    )
    arrays = ArrayRecord([np.zeros(int(config["parameters"]), np.float32)])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]))
