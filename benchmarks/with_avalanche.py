"""Avalanche 0.6 on the rows that `step.py` gives it: its Naive strategy, alone or with its plugins.

Avalanche requires torchvision and solvers that do not install beside this torch, and uses none of them here. Stand-ins
replace them:

    pip install --no-deps avalanche-lib==0.6.0 && pip install psutil tqdm dill tensorboard
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

__all__ = ["PLUGINS", "avalanche", "avalanche_version"]

PLUGINS = ("none", "replay", "ewc")
"""What is compared."""


def avalanche(
    x: Tensor, y: Tensor, model: nn.Module, descent: Optimizer, size: int, plugin: str, lean: bool
) -> Callable[[], float]:
    """A function that learns the rows once more and returns the seconds of CPU time it took, consolidation left out.

    plugin: one of `PLUGINS`. lean: keep only the mean loss, as the others do; else as it comes.
    """
    from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
    from avalanche.benchmarks.utils.utils import as_taskaware_classification_dataset
    from avalanche.evaluation.metrics import loss_metrics
    from avalanche.logging import BaseLogger
    from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, ReplayPlugin
    from avalanche.training.plugins.evaluation import default_evaluator
    from avalanche.training.supervised import Naive

    data = as_taskaware_classification_dataset(LabelledRows(x, y))
    experience = benchmark_from_datasets(train=[data]).train_stream[0]
    nowhere = open(os.devnull, "w")  # noqa: SIM115 -- until the process ends
    with redirect_stdout(nowhere):  # its logger keeps the stdout it was made with
        evaluator = EvaluationPlugin(loss_metrics(epoch=True), loggers=[BaseLogger()]) if lean else default_evaluator()
    made: dict[str, Callable[[], list[Any]]] = {
        "none": list,
        "replay": lambda: [ReplayPlugin(mem_size=500)],
        "ewc": lambda: [EWCPlugin(ewc_lambda=100.0, mode="online", decay_factor=1.0)],
    }
    plugins = made[plugin]()
    consolidating = sum_of_clocks(plugins)
    naive = Naive(
        model=model,
        optimizer=descent,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=size,
        train_epochs=1,
        plugins=plugins,
        evaluator=evaluator,
    )

    def learn() -> float:
        begun = time.process_time() - consolidating()
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            naive.train(experience)
        return time.process_time() - consolidating() - begun

    return learn


def sum_of_clocks(plugins: list[Any]) -> Callable[[], float]:
    """The CPU seconds these have spent on consolidating, from now on."""
    spent = [0.0]

    def clocked(consolidate: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any, **named: Any) -> None:
            begun = time.process_time()
            consolidate(*arguments, **named)
            spent[0] += time.process_time() - begun

        return timed

    for plugin in plugins:
        plugin.after_training_exp = clocked(plugin.after_training_exp)
    return lambda: spent[0]


class LabelledRows(TensorDataset):
    """Rows in the form Avalanche takes, which knows its labels and tasks beforehand."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self.targets = y.tolist()
        self.targets_task_labels = [0] * len(y)


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that have every name, for those that Avalanche imports and does not use here."""

    names = ("torchvision", "gdown", "quadprog", "qpsolvers", "wandb", "pytorchcv", "GPUtil")

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """A stand-in for these, and nothing for others."""
        if name.split(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """A module whose every name is a class that does nothing."""

        def anything(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__init__": lambda *_, **__: None})

        module = ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = anything  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def avalanche_version() -> str | None:
    """Its version, or None and a line that says why it takes no part."""
    sys.meta_path.append(StandIns())  # last: what is installed comes first
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import avalanche as library
            import avalanche.training.supervised
    except ImportError as missing:
        print(f"avalanche takes no part: {missing} (see the top of with_avalanche.py)\n")
        return None
    return str(library.__version__)
