"""A contest: candidates, each a process of its own, take turns on a quiet machine, round after round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from dipc.studies.bench.candidate import Candidate, CandidateLost, CandidateProcess, CaseFacts
from dipc.studies.bench.timing import Timing

CaseKey = tuple[str, str]
"""The names of a candidate and of its case."""

Progress = Callable[[int, int], None]
"""Called with the number of steps done and of all."""


@dataclass(frozen=True)
class Rules:
    """The rules of a contest.

    Attributes:
        threads: of each candidate.
        rounds: how often each case gets its turn.
        calls: timed calls in a turn.
        warmup: calls before them that are not timed.
        timeout_s: what takes longer in one turn, or to set up, loses the candidate.
    """

    threads: int
    rounds: int = 15
    calls: int = 5
    warmup: int = 2
    timeout_s: float = 900.0


@dataclass(frozen=True)
class Failure:
    """A candidate, or a case of one, that gave no figures; absent ones lack what they would run on."""

    candidate: str
    case: str | None
    reason: str
    absent: bool


@dataclass(frozen=True)
class Outcome:
    """All figures of a contest, by candidate and case."""

    timings: Mapping[CaseKey, Timing]
    failures: tuple[Failure, ...]


def run_interleaved(
    candidates: Sequence[Candidate], rules: Rules, progress: Progress = lambda done, total: None
) -> Outcome:
    """Set all candidates up, one after the other, then let their cases take turns.

    Only one process works at a time. The order is turned from round to round, so that nobody always follows the same
    one. Whoever fails drops out, and the others go on.

    Args:
        candidates: names are distinct.
        rules: how often and how long.
        progress: counts turns.
    """
    with ExitStack() as stack:
        contest = _Contest(rules)
        total = len(candidates)
        for done, candidate in enumerate(candidates):
            progress(done, total)
            process = CandidateProcess(candidate, rules.threads, rules.timeout_s)
            contest.enter(stack.enter_context(closing(process)))
        total = rules.rounds * len(contest.entries)
        for number in range(rules.rounds):
            keys = list(contest.entries)
            turned = number % max(len(keys), 1)
            for place, key in enumerate(keys[turned:] + keys[:turned]):
                progress(number * len(keys) + place, total)
                contest.turn(key, number)
        progress(total, total)
    return contest.outcome()


def untimed_answers(candidate: Candidate, rules: Rules) -> dict[str, tuple[float, ...]]:
    """Return what a candidate's cases return, untimed; it is gone afterwards. Raises CandidateLost."""
    with closing(CandidateProcess(candidate, rules.threads, rules.timeout_s)) as process:
        return {name: process.answer(name) or () for name in process.set_up()}


@dataclass
class _Entry:
    """A case that is still in, and what was measured of it so far."""

    process: CandidateProcess
    facts: CaseFacts
    answer: tuple[float, ...] | None = None
    rounds: list[tuple[float, ...]] = field(default_factory=list)
    idle: bool = True

    def timing(self) -> Timing:
        return Timing(tuple(self.rounds), self.facts.bytes_read, self.answer, self.idle)


class _Contest:
    """The entries that are still in, and the failures of the others."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.entries: dict[CaseKey, _Entry] = {}
        self.failures: list[Failure] = []

    def enter(self, process: CandidateProcess) -> None:
        name = process.candidate.name
        try:
            cases = process.set_up()
        except CandidateLost as lost:
            process.close()
            self.failures.append(Failure(name, None, str(lost), lost.absent))
            return
        for case, facts in cases.items():
            entry = self.entries[name, case] = _Entry(process, facts)
            try:
                entry.answer = process.answer(case)
            except CandidateLost as lost:
                self._drop((name, case), lost)
                if lost.gone:
                    return

    def turn(self, key: CaseKey, number: int) -> None:
        entry = self.entries.get(key)
        if entry is None:
            return
        calls, warmup = self.rules.calls, self.rules.warmup
        try:
            turn = entry.process.take_turn(key[1], number * (calls + warmup), calls, warmup)
        except CandidateLost as lost:
            self._drop(key, lost)
            return
        entry.rounds.append(tuple(s / entry.facts.repeats for s in turn.seconds))
        entry.idle = entry.idle and turn.idle

    def outcome(self) -> Outcome:
        return Outcome({key: entry.timing() for key, entry in self.entries.items()}, tuple(self.failures))

    def _drop(self, key: CaseKey, lost: CandidateLost) -> None:
        """Take the case out, or with its process all of the candidate's."""
        lost_cases = [k for k in self.entries if k == key or (lost.gone and k[0] == key[0])]
        self.failures.append(Failure(key[0], None if lost.gone else key[1], str(lost), lost.absent))
        for case in lost_cases:
            del self.entries[case]
