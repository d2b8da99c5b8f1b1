"""McMahan's 2NN on MNIST by Flower's simulation: run by the peer's own Python, prints a line for each round.

PEER_FILE (of MNIST), PEER_ROUNDS and PEER_PROCESSORS are set in the environment, which workers inherit. A hundred
clients of 600 images, ten a round, one pass in batches of 10, a ClientApp as Flower's quickstart for PyTorch has it,
FedAvg without evaluations.
"""

import functools
import os

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLIENTS, BATCH = 100, 10
FILE = os.environ["PEER_FILE"]
ROUNDS, PROCESSORS = int(os.environ["PEER_ROUNDS"]), int(os.environ["PEER_PROCESSORS"])


class Net(nn.Module):
    """Two layers of 200."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 200), nn.Linear(200, 200), nn.Linear(200, 10)

    def forward(self, x):
        """Return logits."""
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


@functools.cache
def parts():
    """Return the images and labels of training, and who has which; once in each process."""
    with np.load(FILE) as found:
        x, y = torch.from_numpy(found["x_train"] / np.float32(255)), torch.from_numpy(found["y_train"].astype(np.int64))
    return x, y, np.array_split(np.random.default_rng(0).permutation(len(y)), CLIENTS)


client = ClientApp()


@client.train()
def train(msg: Message, context: Context):
    """Train on this client's images."""
    torch.set_num_threads(1)
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    x, y, dealt = parts()
    rows = dealt[context.node_config["partition-id"]]
    loader = DataLoader(TensorDataset(x[rows], y[rows]), batch_size=BATCH, shuffle=True)
    optimizer, criterion = (
        torch.optim.SGD(model.parameters(), lr=msg.content["config"]["lr"]),
        nn.CrossEntropyLoss(),
    )
    total = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    metrics = MetricRecord({"train_loss": total / len(loader), "num-examples": len(rows)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=msg)


class Announcing(FedAvg):
    """FedAvg that says when a round ends."""

    def aggregate_train(self, server_round, replies):
        """Aggregate as FedAvg does, then announce."""
        result = super().aggregate_train(server_round, replies)
        print(f"ROUND end {server_round}", flush=True)
        return result


server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and print the accuracy on the test images."""
    strategy = Announcing(fraction_train=0.1, fraction_evaluate=0.0, min_train_nodes=10, min_available_nodes=CLIENTS)
    initial = ArrayRecord(Net().state_dict())
    done = strategy.start(grid, initial, num_rounds=ROUNDS, train_config=ConfigRecord({"lr": 0.1}))
    model = Net()
    model.load_state_dict(done.arrays.to_torch_state_dict())
    with np.load(FILE) as found, torch.no_grad():
        said = model(torch.from_numpy(found["x_test"] / np.float32(255))).argmax(1).numpy()
        print(f"ACCURACY {(said == found['y_test']).mean():.4f}", flush=True)


def simulate() -> None:
    """Run it; from another module, so that workers can import this one."""
    run_simulation(
        server,
        client,
        CLIENTS,
        backend_config={
            "init_args": {"num_cpus": PROCESSORS, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
