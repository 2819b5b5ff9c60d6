"""torchft's LocalSGD and DiLoCo on the task of `benchmarks.cluster`, for an interpreter that has torchft.

    PYTHONPATH=. PYTHON_WITH_TORCHFT -m benchmarks.with_torchft diloco 65536

Two replica groups of one process each on this machine, over gloo; prints the seconds of the slower one.
"""

from __future__ import annotations

import argparse
import multiprocessing
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from benchmarks.replica_task import RATE, H, learn, network

PATIENCE = timedelta(seconds=60)


def replica(rank: int, kind: str, rows: int, lighthouse: str, results: Any) -> None:
    """One of the two processes."""
    from torchft import Manager, ProcessGroupGloo
    from torchft.local_sgd import DiLoCo, LocalSGD

    torch.set_num_threads(1)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=PATIENCE),
        load_state_dict=lambda state: None,
        state_dict=dict,
        min_replica_size=2,
        use_async_quorum=False,
        timeout=PATIENCE,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=lighthouse,
        replica_id=f"replica-{rank}",
        init_sync=False,
    )
    try:
        if kind == "localsgd":
            averaging = LocalSGD(manager, model, optimizer, sync_every=H)
        else:
            outer = torch.optim.SGD(model.parameters(), 0.7, momentum=0.9, nesterov=True)
            averaging = DiLoCo(manager, [model], optimizer, outer, sync_every=H)
        with averaging:
            results.put(learn(model, optimizer, rows, rank))
    finally:
        manager.shutdown()


def main() -> None:
    from torchft.coordination import LighthouseServer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["localsgd", "diloco"])
    parser.add_argument("rows", type=int, help="of both replicas together")
    arguments = parser.parse_args()
    lighthouse = LighthouseServer(bind="127.0.0.1:0", min_replicas=2)
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    both = [
        context.Process(target=replica, args=(rank, arguments.kind, arguments.rows // 2, lighthouse.address(), results))
        for rank in range(2)
    ]
    for one in both:
        one.start()
    seconds = max(results.get(timeout=300) for _ in both)
    for one in both:
        one.join()
    lighthouse.shutdown()
    print(seconds)


if __name__ == "__main__":
    main()
