"""A job: the job file and the parts that it names. Python code may build the same parts directly.

`file` reads the job file into its `sections`, applies `settings`, checks the `consistency` of the sections, or reports
the first error (`fault`). `data`, `objective`, `model`, `learning` and `drift` each build their parts from the file
alone. A `Job` combines them.
"""

from __future__ import annotations

from incr_core._util import names_code
from incr_core.job._cluster_section import ClusterSection
from incr_core.job._columns import told_columns
from incr_core.job._data_sections import FeaturesSection, StreamSection
from incr_core.job._fault import first_fault
from incr_core.job._federated_section import AvailabilitySection, FederatedSection
from incr_core.job._field_types import Settle, TimeZone
from incr_core.job._file import OBJECT
from incr_core.job._job import Job
from incr_core.job._learner_sections import LearnerSection, ModelSection
from incr_core.job._prepared import PREPARES
from incr_core.job._privacy import ClientPrivacy, ServerPrivacy
from incr_core.job._proposal import Proposal, looked_at, propose
from incr_core.job._proposal_text import job_text
from incr_core.job._replicas import Replicas
from incr_core.job._run_sections import AlertsSection

__all__ = [
    "OBJECT",
    "PREPARES",
    "AlertsSection",
    "AvailabilitySection",
    "ClientPrivacy",
    "ClusterSection",
    "FeaturesSection",
    "FederatedSection",
    "Job",
    "LearnerSection",
    "ModelSection",
    "Proposal",
    "Replicas",
    "ServerPrivacy",
    "Settle",
    "StreamSection",
    "TimeZone",
    "first_fault",
    "job_text",
    "looked_at",
    "names_code",
    "propose",
    "told_columns",
]
