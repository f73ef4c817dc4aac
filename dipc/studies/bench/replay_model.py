"""`dipc bench replay --model`: a long replay through all sites of a model, with its memory."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.cache.policy import check_online, get_policy
from dipc.errors import UsageError
from dipc.frontend.hugging_face import capture
from dipc.memory.lowering import active_units, lower
from dipc.native.call import opened
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.registry import plugin_files
from dipc.studies.bench.candidate import Candidate, CandidateLost
from dipc.studies.bench.candidates.replay_model import CASE, replay_sites
from dipc.studies.bench.contest import Rules, untimed_answers
from dipc.studies.bench.machine import Machine, describe_machine
from dipc.studies.bench.options import ReplayOptions

TIMEOUT_S = 24 * 3600.0
POOL_TOKENS = 512


@dataclass(frozen=True)
class ModelReplayResult:
    """One replay: what it took.

    Attributes:
        machine: where.
        bench: what.
        sites: of the model.
        units: of all sites.
        accesses: units that tokens touched, counted for every cache of a site.
        wall_s: from the first site's first token to the last one's last, making the masks included.
        peak_bytes: the most memory that the process held, Python and numpy included; 0 where the system does not say.
        hit_rates: of all sites together, by case.
    """

    machine: Machine
    bench: ModelReplayBench
    sites: int
    units: int
    accesses: int
    wall_s: float
    peak_bytes: int
    hit_rates: tuple[float, ...]

    @property
    def accesses_per_s(self) -> float:
        """Accesses of all caches, by the wall time."""
        return self.accesses / self.wall_s


@dataclass(frozen=True)
class ModelReplayBench:
    """A replay of masks through all sites of a model.

    Attributes:
        model: as `capture` takes it; of a config.json, structure alone.
        tokens: that run through every site.
        cases: policy and share of the units that fit, of each cache of a site.
        threads: that sites are shared out to.
        passes: what makes the sites, and their densities.
        seed: of the masks.
        pool: different masks of each site.
    """

    model: str
    tokens: int
    cases: tuple[tuple[str, float], ...]
    threads: int
    passes: str = ReplayOptions.passes
    seed: int = ReplayOptions.seed
    pool: int = POOL_TOKENS

    def check(self) -> None:
        """Raise UsageError for what cannot be replayed, MissingDependency without the native library."""
        for policy, share in self.cases:
            check_online(get_policy(policy))
            if not 0 <= share <= 1:
                raise UsageError(f"{share:g} is no share of the units; the capacity lies in [0, 1]")
        if self.tokens < 1:
            raise UsageError(f"{self.tokens} tokens cannot be replayed; ask for at least 1")
        opened()

    def run(self) -> ModelReplayResult:
        """Run masks through the caches of all sites, in a process of its own, whose memory is measured.

        Raises:
            UsageError: it cannot be replayed, or the process failed.
            MissingDependency: the native library is absent.
        """
        self.check()
        machine = describe_machine()
        sites = self.sites()
        candidate = Candidate.calling(
            CASE,
            replay_sites,
            sites=sites,
            tokens=self.tokens,
            cases=self.cases,
            threads=self.threads,
            pool_tokens=self.pool,
            seed=self.seed,
            plugins=[str(file) for file in plugin_files()],
        )
        try:
            wall_s, peak_bytes, *hits = untimed_answers(candidate, Rules(threads=1, timeout_s=TIMEOUT_S))[CASE]
        except CandidateLost as lost:
            raise UsageError(f"the replay was lost: {lost}") from lost
        once = self.tokens * sum(active for _, active in sites)
        units = sum(units for units, _ in sites)
        rates = tuple(count / once for count in hits)
        return ModelReplayResult(machine, self, len(sites), units, once * len(rates), wall_s, int(peak_bytes), rates)

    def sites(self) -> list[tuple[int, int]]:
        """Return the units of each selection site, and how many of them a token touches."""
        program = run_pipeline(capture(self.model), parse_pipeline(self.passes)).program
        active = active_units(program)
        sites = [(site.units, active[site.name]) for site in lower(program).sites if site.name in active]
        if not sites:
            raise UsageError(f"{self.passes} selects nothing in {self.model}: there are no sites to replay")
        return sites
