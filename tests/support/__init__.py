"""What several tests share: small streams, jobs and runs, a grid in this process, faults on order."""

from contextlib import suppress

with suppress(ModuleNotFoundError):  # a machine with a GPU need not have Flower
    import federated  # noqa: F401  it silences a warning of Flower's own imports, which pytest would make an error
