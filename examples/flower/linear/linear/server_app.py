"""The ServerApp, which Flower runs; here a job takes its place."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from linear.task import initial_params

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg from zeros."""
    strategy = FedAvg(fraction_evaluate=context.run_config["fraction-evaluate"])
    rounds = context.run_config["num-server-rounds"]
    print(strategy.start(grid=grid, initial_arrays=ArrayRecord(initial_params()), num_rounds=rounds))
