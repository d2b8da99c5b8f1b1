"""The network, its rows, and how it is trained and tested."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two layers for an image of 8 x 8 pixels."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


def load_data(node_config, batch_size):
    """Load this node's rows: those of its file where it has one, else a part of scikit-learn's digits."""
    if "data-path" in node_config:
        rows = np.load(node_config["data-path"], allow_pickle=False)
        train, test = (rows["x_train"], rows["y_train"]), (rows["x_test"], rows["y_test"])
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        mine = order[node_config["partition-id"] :: node_config["num-partitions"]]
        cut = len(mine) * 4 // 5
        train, test = (x[mine[:cut]], y[mine[:cut]]), (x[mine[cut:]], y[mine[cut:]])
    sets = [TensorDataset(torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y).long()) for x, y in (train, test)]
    return DataLoader(sets[0], batch_size=batch_size, shuffle=True), DataLoader(sets[1], batch_size=256)


def train(net, loader, epochs, lr):
    """Train the network, and return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    criterion, running = nn.CrossEntropyLoss(), 0.0
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item()
    return running / (epochs * len(loader))


def test(net, loader):
    """Return the mean loss and the accuracy."""
    correct, loss, rows = 0, 0.0, len(loader.dataset)
    net.eval()
    with torch.no_grad():
        for x, y in loader:
            outputs = net(x)
            loss += nn.functional.cross_entropy(outputs, y, reduction="sum").item()
            correct += (outputs.argmax(1) == y).sum().item()
    return loss / max(rows, 1), correct / max(rows, 1)
