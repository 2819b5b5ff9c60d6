# Before any test imports Flower: `federated` sets up and quietens Flower's own import.
import federated  # noqa: F401
