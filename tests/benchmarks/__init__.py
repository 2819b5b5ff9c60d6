"""Tests of what benchmarks read."""
