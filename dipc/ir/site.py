"""Which site: a place of one gated MLP at which a mask decides which units are kept.

DIP has two in each MLP, `input` and `glu`; a matrix that is read whole is a site by itself, named by its weight.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"layers\.(\d+)(?:\.(\d+))?\.([^.]+)")


@dataclass(frozen=True)
class SiteId:
    """Which site it is; `str(site)` is its name in traces, reports and calibrations.

    Attributes:
        layer: of the model; None where a selection of a plug-in names its site otherwise.
        mlp: which of its layer's MLPs, where a layer has several.
        place: `input`, `glu`, or the matrix that is read whole.
    """

    layer: int | None
    mlp: int | None
    place: str

    def __str__(self) -> str:
        return f"{self.prefix}.{self.place}" if self.prefix else self.place

    @property
    def prefix(self) -> str:
        """The MLP's part of the name: `layers.3`, or `layers.3.1` where a layer has several."""
        if self.layer is None:
            return ""
        return f"layers.{self.layer}" + ("" if self.mlp is None else f".{self.mlp}")

    @classmethod
    def parse(cls, name: str) -> SiteId:
        """Return the site of a name; of one in another form the name is the place."""
        found = _NAME.fullmatch(name)
        if found is None:
            return cls(None, None, name)
        return cls(int(found[1]), None if found[2] is None else int(found[2]), found[3])
