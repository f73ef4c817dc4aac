"""`dipc bench replay --model`: a long replay through all sites of a model, with its memory."""

from __future__ import annotations

from dataclasses import dataclass

from dipc.cache.policy import check_online, get_policy
from dipc.errors import UsageError
from dipc.studies.bench import machine
from dipc.studies.bench.case import require_library
from dipc.studies.bench.process import Contender, Lost, Worker
from dipc.studies.bench.replay_worker import MODEL, POOL_TOKENS, WHOLE_MODEL

TIMEOUT_S = 24 * 3600.0


@dataclass(frozen=True)
class ModelSettings:
    """What is replayed.

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
    passes: str = "dip"
    seed: int = 0
    pool: int = POOL_TOKENS

    def check(self) -> None:
        """UsageError for what cannot be replayed; MissingDependency without the native library."""
        for policy, share in self.cases:
            check_online(get_policy(policy))
            if not 0 <= share <= 1:
                raise UsageError(f"{share:g} is no share of the units; the capacity lies in [0, 1]")
        if self.tokens < 1:
            raise UsageError(f"{self.tokens} tokens cannot be replayed; ask for at least 1")
        require_library()


@dataclass(frozen=True)
class ModelReplay:
    """What it took.

    Attributes:
        machine: where.
        settings: what.
        sites: of the model.
        units: of all sites.
        accesses: units that tokens touched, counted for every cache of a site.
        wall_s: from the first site's first token to the last one's last, making the masks included.
        peak_bytes: the most memory that the process held, Python and numpy included; 0 where the system does not say.
        hit_rates: of all sites together, by case.
    """

    machine: machine.Machine
    settings: ModelSettings
    sites: int
    units: int
    accesses: int
    wall_s: float
    peak_bytes: int
    hit_rates: tuple[float, ...]

    @property
    def accesses_per_s(self) -> float:
        """Of all caches, by the wall time."""
        return self.accesses / self.wall_s


def replay_model(settings: ModelSettings) -> ModelReplay:
    """Run masks through the caches of all sites, in a process of its own, whose memory is measured.

    Raises:
        UsageError: the settings cannot be replayed, or the process failed.
        MissingDependency: the native library is absent.
    """
    settings.check()
    where = machine.describe()
    sites = _sites(settings)
    arguments = {
        "sites": sites,
        "tokens": settings.tokens,
        "cases": settings.cases,
        "threads": settings.threads,
        "pool_tokens": settings.pool,
        "seed": settings.seed,
    }
    worker = Worker(Contender(MODEL, WHOLE_MODEL, arguments), 1, TIMEOUT_S)
    try:
        worker.set_up()
        wall_s, peak_bytes, *hits = worker.ask({"answer": MODEL})["answer"]
    except Lost as lost:
        raise UsageError(f"the replay was lost: {lost}") from lost
    finally:
        worker.close()
    once = settings.tokens * sum(active for _, active in sites)
    units = sum(units for units, _ in sites)
    rates = tuple(count / once for count in hits)
    return ModelReplay(where, settings, len(sites), units, once * len(rates), wall_s, int(peak_bytes), rates)


def _sites(settings: ModelSettings) -> list[tuple[int, int]]:
    """Units of each selection site, and how many of them a token touches."""
    from dipc.api import capture, compile
    from dipc.memory.lowering import active_units, lower

    program = compile(capture(settings.model), settings.passes).program
    active = active_units(program)
    sites = [(site.units, active[site.name]) for site in lower(program).sites if site.name in active]
    if not sites:
        raise UsageError(f"{settings.passes} selects nothing in {settings.model}: there are no sites to replay")
    return sites
