"""A Flower project in PyTorch with the message API: a small network on scikit-learn's digits, averaged by FedAvg.

It has the shape in which Flower users write such apps, and its apps import nothing of `incr`. As a script it runs on
Flower's own simulation engine.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

client, server = ClientApp(), ServerApp()

Loader = DataLoader[tuple[Tensor, ...]]

FINAL_MODEL = "final_model.npz"


class Net(nn.Module):
    """Two layers on the 64 pixels of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 32)
        self.out = nn.Linear(32, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.out(functional.relu(self.hidden(pixels)))  # type: ignore[no-any-return]


def load_data(partition: int, partitions: int, seed: int = 0) -> tuple[Loader, Loader]:
    """The rows of a partition, 80% of them to train on, in an order by the seed."""
    pixels, digits = load_digits(return_X_y=True)
    mine = slice(partition, None, partitions)
    rows = TensorDataset(torch.tensor(pixels[mine] / 16, dtype=torch.float32), torch.tensor(digits[mine]))
    train, test = torch.utils.data.random_split(rows, [0.8, 0.2], torch.Generator().manual_seed(42))
    order = torch.Generator().manual_seed(seed)
    return DataLoader(train, batch_size=32, shuffle=True, generator=order), DataLoader(test, batch_size=32)


@client.train()
def train(msg: Message, context: Context) -> Message:
    partition, partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    model = Net()
    model.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())
    config = msg.content.config_records["config"]
    loader, _ = load_data(int(str(partition)), int(str(partitions)), seed=int(str(config["server-round"])))
    optimizer = torch.optim.SGD(model.parameters(), lr=float(str(config["lr"])), momentum=0.9)
    config["lr"] = 0.0  # a message is its client's own
    total = 0.0
    for pixels, digits in loader:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(pixels), digits)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
    size = len(loader.dataset)  # type: ignore[arg-type]
    metrics = MetricRecord({"train_loss": total / len(loader), "num-examples": size})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@client.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    model = Net()
    model.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())
    partition, partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    _, loader = load_data(int(str(partition)), int(str(partitions)))
    with torch.no_grad():
        right = sum(int((model(pixels).argmax(1) == digits).sum()) for pixels, digits in loader)
    size = len(loader.dataset)  # type: ignore[arg-type]
    metrics = MetricRecord({"eval_acc": right / size, "num-examples": size})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)


@server.main()
def main(grid: Grid, context: Context) -> None:
    rounds = int(str(context.run_config.get("num-server-rounds", 3)))
    torch.manual_seed(0)
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": 0.3}),
        num_rounds=rounds,
    )
    accuracy = result.evaluate_metrics_clientapp[rounds]["eval_acc"]
    found: dict[str, Any] = {name: value.numpy() for name, value in result.arrays.to_torch_state_dict().items()}
    np.savez(FINAL_MODEL, **found, accuracy=accuracy)


if __name__ == "__main__":
    from federated._flower_privates import run_simulation

    backend: Any = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}}
    run_simulation(server, client, num_supernodes=int(sys.argv[1]), backend_config=backend)
