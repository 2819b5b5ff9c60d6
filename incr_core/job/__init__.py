"""A job: the job file, and everything it names, built. Python code may build the same parts by hand.

`file` reads the job file into its `sections`, or says by `fault` what is wrong with it; `data`, `objective`, `model`,
`learning` and `drift` build what these say, each from the file alone; a `Job` is all of it together.
"""

from __future__ import annotations

from incr_core._util import names_code
from incr_core.job._engine_sections import AvailabilitySection, ClusterSection, FederatedSection
from incr_core.job._fault import first_fault
from incr_core.job._file import OBJECT
from incr_core.job._job import Job
from incr_core.job._privacy import ClientPrivacy, ServerPrivacy
from incr_core.job._replicas import Replicas
from incr_core.job._sections import (
    AlertsSection,
    FeaturesSection,
    LearnerSection,
    ModelSection,
    StreamSection,
)

__all__ = [
    "OBJECT",
    "AlertsSection",
    "AvailabilitySection",
    "ClientPrivacy",
    "ClusterSection",
    "FeaturesSection",
    "FederatedSection",
    "Job",
    "LearnerSection",
    "ModelSection",
    "Replicas",
    "ServerPrivacy",
    "StreamSection",
    "first_fault",
    "names_code",
]
