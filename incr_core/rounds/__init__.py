"""Participants and their rounds: the steps of an increment, the exchange of updates, and the outer step."""

from __future__ import annotations

from incr_core.rounds._aggregation import Aggregation
from incr_core.rounds._aggregations import AGGREGATIONS
from incr_core.rounds._arrival import Arrival, Counts, total_observed
from incr_core.rounds._borrowing import Lending, check_borrowing
from incr_core.rounds._capped import capped, capped_rows
from incr_core.rounds._client_block import ClientBlock
from incr_core.rounds._comparison import Comparison
from incr_core.rounds._contributions import Contribution, Contributions
from incr_core.rounds._contributor import Contributor
from incr_core.rounds._exchange import Alone, Exchange
from incr_core.rounds._orders import Orders
from incr_core.rounds._outer import Outer
from incr_core.rounds._outer_steps import OUTERS
from incr_core.rounds._outsized import outsized
from incr_core.rounds._pace import AsRecorded, ByTime, EverySteps, Interval, Pace
from incr_core.rounds._participant import WAITING, Participant
from incr_core.rounds._pending_predictions import PendingPredictions
from incr_core.rounds._personal import personal_names
from incr_core.rounds._private_mean import PrivateMean
from incr_core.rounds._probe import PROBE_ROWS, PROBED, Probe, interleaved
from incr_core.rounds._reference import VERDICTS, Reference
from incr_core.rounds._resharding import SavedState
from incr_core.rounds._review import Review
from incr_core.rounds._round import Cohort, Consolidated, Round, consolidate, joined_rounds, take_round
from incr_core.rounds._side_by_side import learn_side_by_side
from incr_core.rounds._snapshot import Snapshot
from incr_core.rounds._trivial import TrivialPredictors
from incr_core.rounds._unconsolidated_rows import UnconsolidatedRows

__all__ = [
    "AGGREGATIONS",
    "OUTERS",
    "PROBED",
    "PROBE_ROWS",
    "VERDICTS",
    "WAITING",
    "Aggregation",
    "Alone",
    "Arrival",
    "AsRecorded",
    "ByTime",
    "ClientBlock",
    "Cohort",
    "Comparison",
    "Consolidated",
    "Contribution",
    "Contributions",
    "Contributor",
    "Counts",
    "EverySteps",
    "Exchange",
    "Interval",
    "Lending",
    "Orders",
    "Outer",
    "Pace",
    "Participant",
    "PendingPredictions",
    "PrivateMean",
    "Probe",
    "Reference",
    "Review",
    "Round",
    "SavedState",
    "Snapshot",
    "TrivialPredictors",
    "UnconsolidatedRows",
    "capped",
    "capped_rows",
    "check_borrowing",
    "consolidate",
    "interleaved",
    "joined_rounds",
    "learn_side_by_side",
    "outsized",
    "personal_names",
    "take_round",
    "total_observed",
]
