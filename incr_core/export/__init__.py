"""Out of the door: a version as files for a service that knows neither incr nor its job.

Numbers and category codes go in, probabilities or values come out. What makes codes of rows goes along, as a
specification and as a module of numpy alone, `encoder`.
"""

from __future__ import annotations

from incr_core.export._export import Exportable, export
from incr_core.export._formats import FORMATS

__all__ = ["FORMATS", "Exportable", "export"]
