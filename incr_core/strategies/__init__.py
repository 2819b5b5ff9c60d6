"""The strategies that come with `incr`, one a file; `STRATEGIES` names them for job files."""

from __future__ import annotations

from incr_core.strategies.ace import ACE
from incr_core.strategies.agem import AGEM
from incr_core.strategies.der import DER
from incr_core.strategies.elastic import ElasticNet
from incr_core.strategies.ewc import EWC
from incr_core.strategies.features import FeatureDistillation
from incr_core.strategies.fedprox import FedProx
from incr_core.strategies.gdumb import GDumb
from incr_core.strategies.icarl import ICaRL
from incr_core.strategies.isolate import Isolate
from incr_core.strategies.l2sp import L2SP
from incr_core.strategies.lwf import LwF
from incr_core.strategies.mas import MAS
from incr_core.strategies.mir import MIR
from incr_core.strategies.outliers import Outliers
from incr_core.strategies.packnet import PackNet
from incr_core.strategies.replay import Replay
from incr_core.strategies.selective import Selective
from incr_core.strategies.si import SI
from incr_core.strategies.slda import SLDA
from incr_core.strategies.small_loss import SmallLoss
from incr_core.strategy import Strategy

__all__ = [
    "ACE",
    "AGEM",
    "DER",
    "EWC",
    "L2SP",
    "MAS",
    "MIR",
    "SI",
    "SLDA",
    "STRATEGIES",
    "ElasticNet",
    "FeatureDistillation",
    "FedProx",
    "GDumb",
    "ICaRL",
    "Isolate",
    "LwF",
    "Outliers",
    "PackNet",
    "Replay",
    "Selective",
    "SmallLoss",
]

STRATEGIES: dict[str, type[Strategy]] = {
    "replay": Replay,
    "ace": ACE,
    "agem": AGEM,
    "der": DER,
    "gdumb": GDumb,
    "icarl": ICaRL,
    "mir": MIR,
    "ewc": EWC,
    "mas": MAS,
    "si": SI,
    "elastic": ElasticNet,
    "fedprox": FedProx,
    "l2sp": L2SP,
    "features": FeatureDistillation,
    "lwf": LwF,
    "isolate": Isolate,
    "packnet": PackNet,
    "slda": SLDA,
    "outliers": Outliers,
    "selective": Selective,
    "small_loss": SmallLoss,
}
