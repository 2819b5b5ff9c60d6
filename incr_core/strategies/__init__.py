"""The strategies of `incr`, one per file. Job files name them by the keys of `STRATEGIES`."""

from __future__ import annotations

from incr_core._util import Catalogue
from incr_core.strategies._ace import ACE
from incr_core.strategies._agem import AGEM
from incr_core.strategies._base import Context, PerWeight, Strategy
from incr_core.strategies._der import DER
from incr_core.strategies._ditto import Ditto
from incr_core.strategies._elastic import ElasticNet
from incr_core.strategies._ewc import EWC
from incr_core.strategies._features import FeatureDistillation
from incr_core.strategies._fedprox import FedProx
from incr_core.strategies._gdumb import GDumb
from incr_core.strategies._hooks import Hooks, derived
from incr_core.strategies._icarl import ICaRL
from incr_core.strategies._isolate import Isolate
from incr_core.strategies._l2sp import L2SP
from incr_core.strategies._lwf import LwF
from incr_core.strategies._mas import MAS
from incr_core.strategies._mir import MIR
from incr_core.strategies._outliers import Outliers
from incr_core.strategies._packnet import PackNet
from incr_core.strategies._pruning import Pruning
from incr_core.strategies._replay import Replay
from incr_core.strategies._ridge import Ridge
from incr_core.strategies._scaffold import Scaffold
from incr_core.strategies._selective import Selective
from incr_core.strategies._si import SI
from incr_core.strategies._slda import SLDA
from incr_core.strategies._small_loss import SmallLoss
from incr_core.strategies._traits import HOOKS, PHASES, Traits

__all__ = [
    "ACE",
    "AGEM",
    "DER",
    "EWC",
    "HOOKS",
    "L2SP",
    "MAS",
    "MIR",
    "PHASES",
    "SI",
    "SLDA",
    "STRATEGIES",
    "Context",
    "Ditto",
    "ElasticNet",
    "FeatureDistillation",
    "FedProx",
    "GDumb",
    "Hooks",
    "ICaRL",
    "Isolate",
    "LwF",
    "Outliers",
    "PackNet",
    "PerWeight",
    "Pruning",
    "Replay",
    "Ridge",
    "Scaffold",
    "Selective",
    "SmallLoss",
    "Strategy",
    "Traits",
    "derived",
]

STRATEGIES: Catalogue[type[Strategy]] = Catalogue(
    "a strategy",
    {
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
        "ditto": Ditto,
        "elastic": ElasticNet,
        "fedprox": FedProx,
        "l2sp": L2SP,
        "features": FeatureDistillation,
        "lwf": LwF,
        "isolate": Isolate,
        "packnet": PackNet,
        "slda": SLDA,
        "outliers": Outliers,
        "scaffold": Scaffold,
        "selective": Selective,
        "small_loss": SmallLoss,
    },
    "incr.strategies",
)
