"""Pipelines by which a module is brought to each level, for tests that run all of them."""

from __future__ import annotations

LEVELS = (
    "",
    "fuse",
    "fuse,pack-weights,assign-destinations",
    "fuse,pack-weights,assign-destinations,bufferize,plan-memory",
    "fuse,lower{cpu=portable}",
)
"""One that ends at each level, and between."""

SPARE = (*LEVELS, "lower{cpu=scalar in-place=false share=false}", "lower{cpu=scalar}")
"""The same, and two that leave much out."""
