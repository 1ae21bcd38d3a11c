"""What SOFIE adds to every xDSL tool, through the entry point `xdsl.universe`; imports nothing heavy."""

from __future__ import annotations

from xdsl.universe import Universe

from sofie.registry import OWN_DIALECTS, own_passes

SOFIE_UNIVERSE = Universe(all_dialects=dict(OWN_DIALECTS), all_passes=own_passes())
