"""Export of a version as files for a service without incr.

An exported model takes numbers and category codes and returns probabilities or values. The encoding of rows is exported
too, as a specification and as the module `encoder`, which needs only numpy.
"""

from __future__ import annotations

from incr_core.export._export import Exportable, export
from incr_core.export._formats import FORMATS

__all__ = ["FORMATS", "Exportable", "export"]
