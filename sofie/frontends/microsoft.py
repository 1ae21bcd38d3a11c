"""The shapes of what operators of com.microsoft give."""

from __future__ import annotations

from sofie.frontends.shapes import Rule

DOMAIN = "com.microsoft"

RULES: dict[tuple[str, int], Rule] = {}
"""The shape of a result by its operator and place; see `inference`."""
