"""The activity model: how large the units of a site are, token after token, in a few numbers that were fitted.

The logarithm of a unit's magnitude is its popularity plus noise. Both are tables over the standard normal distribution
(`dipc.memory.synthetic.normal`); the normal variable under the noise is sqrt(w) a + sqrt(1 - w) e, where `a` is
autoregressive (a_t = r a_(t-1) + sqrt(1 - r^2) b_t) and b and e are independent for every token and unit.

Shape legend: G points of `normal.GRID_G`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dipc.documents import first_problem, read_json
from dipc.errors import BadFile
from dipc.files import write_whole
from dipc.input_file import read_input
from dipc.memory.synthetic.normal import GRID_G

SCHEMA: Literal[1] = 1
DEFAULT = Path(__file__).parent / "demo.json"

Table = Annotated[tuple[float, ...], Field(min_length=len(GRID_G), max_length=len(GRID_G))]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class SiteActivity(_Strict):
    """The units of one site."""

    depth: Share
    """Where in the model: 0 for the first layer, 1 for the last."""
    popularity: Table
    """[G]: the units' mean log magnitude, beside the token's mean."""
    noise: Table
    """[G]: what a token adds to it."""
    persistent: Share
    """w: the part of the noise's variance, as a normal variable, that lasts."""
    persistence: Annotated[float, Field(ge=0, lt=1)]
    """r: how much of it is left a token later."""

    @model_validator(mode="after")
    def _ascending(self) -> SiteActivity:
        for name, table in (("popularity", self.popularity), ("noise", self.noise)):
            if any(later < earlier for earlier, later in pairwise(table)):
                raise ValueError(f"the quantiles of {name} must not fall")
        return self


class Fitted(_Strict):
    """The text that an activity model was fitted on."""

    model: str
    digest: str
    text: str
    text_digest: str
    tokens: Annotated[int, Field(ge=2)]
    seq_len: Annotated[int, Field(ge=2)]
    dipc: str


class ActivityModel(_Strict):
    """Activity by kind of site, each at several depths in ascending order."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    kind: Literal["activity"] = "activity"
    fitted: Fitted
    input: Annotated[tuple[SiteActivity, ...], Field(min_length=1)]
    """|x|, what reaches an MLP."""
    glu: Annotated[tuple[SiteActivity, ...], Field(min_length=1)]
    """|GLU(x)|, what reaches its down projection."""

    @model_validator(mode="after")
    def _depths_rise(self) -> ActivityModel:
        for name, sites in (("input", self.input), ("glu", self.glu)):
            if any(later.depth <= earlier.depth for earlier, later in pairwise(sites)):
                raise ValueError(f"the depths of {name} must rise")
        return self

    @property
    def label(self) -> str:
        """The source that a figure names when it rests on this model."""
        made = self.fitted
        return f"synthetic: drawn from activity fitted on {made.model} ({made.text}, {made.tokens:,} tokens)"

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def at(self, place: str, depth: float) -> SiteActivity:
        """The activity of a site: between two depths that were fitted, in proportion.

        Args:
            place: of the site in its MLP; one that is not `input` is taken for a `glu`.
            depth: 0 for the first layer, 1 for the last.
        """
        fitted = self.input if place == "input" else self.glu
        after = next((s for s in fitted if s.depth >= depth), fitted[-1])
        before = next((s for s in reversed(fitted) if s.depth <= depth), fitted[0])
        if after.depth <= before.depth:
            return after
        return _between(before, after, depth)

    def to_bytes(self) -> bytes:
        """The file: JSON with a site in a few lines."""
        data = self.model_dump(mode="json", by_alias=True)
        sites = {name: data.pop(name) for name in ("input", "glu")}
        head = json.dumps(data, indent=2, allow_nan=False).removesuffix("\n}")
        lists = (f'  "{name}": [\n{_lines(listed)}\n  ]' for name, listed in sites.items())
        return (head + ",\n" + ",\n".join(lists) + "\n}\n").encode()

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_whole(Path(path), lambda part: part.write_bytes(self.to_bytes()))

    @classmethod
    def load(cls, path: str | Path) -> ActivityModel:
        """Read an activity model that `save` wrote.

        Raises:
            BadFile: there is no such file, or it is no activity model, of a newer schema, or contradicts itself.
        """
        try:
            raw = read_input(path)
        except FileNotFoundError:
            raise BadFile(
                f"{path}: cannot be read: there is no such file; make one with `dipc trace fit MODEL -o FILE`"
            ) from None
        data = read_json(raw, path)
        if data.get("kind") != "activity":
            raise BadFile(f"{path}: no model of activity; make one with `dipc trace fit MODEL -o FILE`")
        schema = data.get("schema")
        if type(schema) is int and schema > SCHEMA:
            raise BadFile(f"{path}: written by a newer dipc (schema {schema}, this one reads {SCHEMA}); upgrade dipc")
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise BadFile(f"{path}: {first_problem(error)}; fit it again") from None


@cache
def default_activity() -> ActivityModel:
    """The one that comes with dipc, fitted on the demo model (README.md)."""
    return ActivityModel.load(DEFAULT)


def _between(before: SiteActivity, after: SiteActivity, depth: float) -> SiteActivity:
    part = (depth - before.depth) / (after.depth - before.depth)

    def mean(first: float, second: float) -> float:
        return first + part * (second - first)

    return SiteActivity(
        depth=depth,
        popularity=tuple(map(mean, before.popularity, after.popularity)),
        noise=tuple(map(mean, before.noise, after.noise)),
        persistent=mean(before.persistent, after.persistent),
        persistence=mean(before.persistence, after.persistence),
    )


def _lines(sites: list[dict[str, object]]) -> str:
    return ",\n".join(f"    {json.dumps(site, allow_nan=False)}" for site in sites)
