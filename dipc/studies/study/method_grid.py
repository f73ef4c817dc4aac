"""The methods of a study with all of their options but the density.

A cache-aware method selects for a cache, so its gamma and its policy are part of the program. Any other method knows of
no cache, and its trace is replayed under whatever policy is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dipc.cache.policy import get_policy
from dipc.errors import UsageError
from dipc.pipeline.lexer import listed, read_steps
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.runner import with_calibration
from dipc.pipeline.text import parse_pipeline, pipeline_text
from dipc.studies.method_rows import MethodRow, choose

DENSE = "dense"


@dataclass(frozen=True)
class Variant:
    """A method with everything but its density.

    Attributes:
        row: its pipeline, in which DENSITY stands for the density.
        gamma: of its cache-aware selection; None where the pipeline says it or there is none.
        policy: of its cache-aware selection; None where there is none.
        calibration: the file for passes that take one and name none.
    """

    row: MethodRow
    gamma: float | None = None
    policy: str | None = None
    calibration: str | None = None

    @property
    def method(self) -> str:
        """Return what the study calls the method."""
        return self.row.label

    @property
    def alike(self) -> Variant:
        """The variant without its gamma: those of one method that differ in gamma alone have it in common."""
        return dataclasses.replace(self, gamma=None)

    def passes(self, density: float) -> list[Pass]:
        """The passes at a density. Raises UsageError where it cannot have that density."""
        given = {"gamma": self.gamma, "policy": self.policy}
        options = {name: value for name, value in given.items() if value is not None}
        passes = [
            dataclasses.replace(item, **options) if item.cache_aware else item
            for item in parse_pipeline(self.row.pipeline(density))
        ]
        return passes if self.calibration is None else with_calibration(passes, self.calibration)

    def pipeline(self, density: float) -> str:
        """The same as text."""
        return pipeline_text(self.passes(density))


def method_grid(
    methods: str | Sequence[str],
    densities: Sequence[float],
    gammas: Sequence[float],
    policies: Sequence[str],
    calibration: str | None,
) -> list[Variant]:
    """The variants of the methods, without `dense`, which every study has.

    Args:
        methods: names or pipelines, as for `compare`.
        densities: to try pipelines with.
        gammas: of cache-aware methods whose pipeline says none.
        policies: of which cache-aware methods take those that decide while a text runs.
        calibration: a file, for the methods that take one.

    Raises:
        UsageError: a method or an option that is not known, or that a study cannot go over.
    """
    wanted = listed(methods) if isinstance(methods, str) else list(methods)
    others = [item for item in wanted if item and item != DENSE]
    if not any(wanted):
        raise UsageError("methods: the list is empty; write dense,dip,dip-ca")
    if not others:
        return []
    # An oracle reads more than its density says, which is no point on a device.
    rows = [row for row in choose(others, densities) if row.kind != "oracle"]
    return [made for row in rows for made in _variants(row, gammas, policies, calibration)]


def _variants(
    row: MethodRow, gammas: Sequence[float], policies: Sequence[str], calibration: str | None
) -> Iterator[Variant]:
    if row.is_fixed and row.least == 0:
        raise UsageError(f"methods: {row.template} has no DENSITY; a study goes over densities, so write one there")
    if row.is_trained:
        raise UsageError(f"methods: {row.label} needs an adapter: write 'fuse-lora{{adapter=FOLDER}},...' with its own")
    if not any(item.cache_aware for item in parse_pipeline(row.pipeline(max(row.least, 0.9)))):
        yield Variant(row, calibration=calibration)
        return
    own = {name: value for _, options in read_steps(row.template) for name, value in options.items()}
    for policy in [own["policy"]] if "policy" in own else filter(works_online, policies):
        for gamma in (None,) if "gamma" in own else gammas:
            yield Variant(row, gamma, policy, calibration)


def works_online(policy: str) -> bool:
    """Return whether a cache under the policy holds anything, and knows what before the text has ended."""
    rule = get_policy(policy)
    return rule.online and rule.capacity(1) > 0
