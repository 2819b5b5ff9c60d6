"""Built-in networks, the statistics that normalise their inputs, and adaptations of any model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from incr_core._util import Catalogue
from incr_core.models._asking import Asking, keeps_nothing
from incr_core.models._calling import Calls, arguments_of, ask
from incr_core.models._derived import Derived
from incr_core.models._entries import Entries, merge_rules
from incr_core.models._extra_state import ExtraState
from incr_core.models._factorisation import Factorisation
from incr_core.models._forward_decay import freshness
from incr_core.models._id_counts import ADMITTED, absorb_ids, id_tables_of, is_id_count, kept_in_id_tables, retracted
from incr_core.models._id_table import IdTable
from incr_core.models._int8 import dequantised, quantised
from incr_core.models._mlp import TableMLP, TableShape
from incr_core.models._modes import answering, keep_frozen_in_eval
from incr_core.models._moments import Moments
from incr_core.models._own_generators import OwnGenerators
from incr_core.models._patterns import matches
from incr_core.models._penultimate import Activations, one_way
from incr_core.models._random_features import LEVELS, STEPS, RandomFeatures
from incr_core.models._restored import restored, same_bits
from incr_core.models._ridge_sums import Ridge, RidgeSums
from incr_core.models._table_experts import LearnsFromSums, TableExperts
from incr_core.models._tokens import TokenCNN
from incr_core.models._towers import TwoTower
from incr_core.models._transformer_text import TransformerText

__all__ = [
    "ADMITTED",
    "LEVELS",
    "MODELS",
    "STEPS",
    "Activations",
    "Asking",
    "Calls",
    "Derived",
    "Entries",
    "ExtraState",
    "Factorisation",
    "IdTable",
    "LearnsFromSums",
    "Moments",
    "OwnGenerators",
    "RandomFeatures",
    "Ridge",
    "RidgeSums",
    "TableExperts",
    "TableMLP",
    "TableShape",
    "TokenCNN",
    "TransformerText",
    "TwoTower",
    "absorb_ids",
    "answering",
    "arguments_of",
    "ask",
    "dequantised",
    "freshness",
    "id_tables_of",
    "is_id_count",
    "keep_frozen_in_eval",
    "keeps_nothing",
    "kept_in_id_tables",
    "matches",
    "merge_rules",
    "one_way",
    "quantised",
    "restored",
    "retracted",
    "same_bits",
]

MODELS: Catalogue[Callable[..., nn.Module]] = Catalogue("a model", {}, "incr.models")
"""Plug-in models for `model.factory`. None is built in: without a factory, the columns determine the network."""
