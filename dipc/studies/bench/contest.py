"""A contest: contenders, each a process of its own, take turns on a quiet machine, round after round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

from dipc.studies.bench.process import Contender, Lost, Worker


@dataclass(frozen=True)
class Rules:
    """How a contest is run.

    Attributes:
        threads: of each contender.
        rounds: how often each case gets its turn.
        calls: timed calls in a turn.
        warmup: calls before them that are not timed.
        timeout_s: what takes longer in one turn, or to set up, loses the contender.
    """

    threads: int
    rounds: int = 15
    calls: int = 5
    warmup: int = 2
    timeout_s: float = 900.0


@dataclass(frozen=True)
class Measured:
    """The times of one case.

    Attributes:
        rounds: seconds of each call of each round, for one of what is measured.
        bytes_read: what one of them reads from memory.
        answer: what the case returned, for comparison, where it returned anything.
        rested: after every turn the process was seen to use no processor.
    """

    rounds: tuple[tuple[float, ...], ...]
    bytes_read: float = 0.0
    answer: tuple[float, ...] | None = None
    rested: bool = True

    @cached_property
    def sorted_s(self) -> tuple[float, ...]:
        """All times, in order."""
        return tuple(sorted(s for times in self.rounds for s in times))

    def quantile_s(self, share: float) -> float:
        """The time that this share of the calls stayed within."""
        return quantile(self.sorted_s, share)

    @property
    def median_s(self) -> float:
        """The median of all calls."""
        return self.quantile_s(0.5)

    @property
    def bytes_per_s(self) -> float:
        """Bytes that had to be read, by the median time."""
        return self.bytes_read / self.median_s


@dataclass(frozen=True)
class Ratio:
    """How many times faster one case was than another: of the medians, and its 10-90 % range over the rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Failure:
    """A contender, or a case of one, that gave no figures; absent ones lack what they would run on."""

    contender: str
    case: str | None
    reason: str
    absent: bool


@dataclass(frozen=True)
class Outcome:
    """All figures of a contest, by contender and case."""

    measured: Mapping[tuple[str, str], Measured]
    failures: tuple[Failure, ...]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of values in order, interpolated."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def speedup(fast: Measured, slow: Measured) -> Ratio:
    """How many times faster `fast` is than `slow`, which took turns with it."""
    pairs = zip(fast.rounds, slow.rounds, strict=True)
    by_round = sorted(quantile(sorted(s), 0.5) / quantile(sorted(f), 0.5) for f, s in pairs)
    return Ratio(slow.median_s / fast.median_s, quantile(by_round, 0.1), quantile(by_round, 0.9))


def hold(
    contenders: Sequence[Contender], rules: Rules, progress: Callable[[int, int], None] = lambda done, total: None
) -> Outcome:
    """Set all contenders up, one after the other, then let their cases take turns.

    Only one process works at a time. The order is turned from round to round, so that nobody always follows the same
    one. Whoever fails drops out, and the others go on.

    Args:
        contenders: names are distinct.
        rules: how often and how long.
        progress: called with the number of turns done and of all.
    """
    with ExitStack() as stack:
        contest = _Contest(rules)
        total = len(contenders)
        for done, contender in enumerate(contenders):
            progress(done, total)
            worker = Worker(contender, rules.threads, rules.timeout_s)
            stack.callback(worker.close)
            contest.enter(worker)
        total = rules.rounds * len(contest.entries)
        for number in range(rules.rounds):
            entries = list(contest.entries)
            turned = number % max(len(entries), 1)
            for place, entry in enumerate(entries[turned:] + entries[:turned]):
                progress(number * len(entries) + place, total)
                contest.turn(entry, number)
        progress(total, total)
    return contest.outcome()


def answers(contender: Contender, rules: Rules) -> dict[str, tuple[float, ...]]:
    """What a contender's cases return, untimed; it is gone afterwards. Raises Lost."""
    worker = Worker(contender, rules.threads, rules.timeout_s)
    try:
        return {name: tuple(worker.ask({"answer": name})["answer"]) for name in worker.set_up()}
    finally:
        worker.close()


Entry = tuple[str, str]


class _Contest:
    """Who is still in, and what was measured so far."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.entries: dict[Entry, Worker] = {}
        self.failures: list[Failure] = []
        self._facts: dict[Entry, dict[str, float]] = {}
        self._answers: dict[Entry, tuple[float, ...] | None] = {}
        self._times: dict[Entry, list[tuple[float, ...]]] = {}
        self._rested: dict[Entry, bool] = {}

    def enter(self, worker: Worker) -> None:
        name = worker.contender.name
        try:
            cases = worker.set_up()
        except Lost as lost:
            worker.close()
            self.failures.append(Failure(name, None, str(lost), lost.absent))
            return
        for case, facts in cases.items():
            entry = (name, case)
            self.entries[entry], self._facts[entry], self._times[entry] = worker, facts, []
            try:
                answer = worker.ask({"answer": case})["answer"]
                self._answers[entry] = None if answer is None else tuple(answer)
            except Lost as lost:
                self._drop(entry, lost)

    def turn(self, entry: Entry, number: int) -> None:
        worker = self.entries.get(entry)
        if worker is None:
            return
        rules = self.rules
        request = {"time": entry[1], "calls": rules.calls, "warmup": rules.warmup}
        try:
            reply = worker.ask({**request, "first": number * (rules.calls + rules.warmup)})
        except Lost as lost:
            self._drop(entry, lost)
            return
        self._times[entry].append(tuple(s / self._facts[entry]["repeats"] for s in reply["seconds"]))
        self._rested[entry] = self._rested.get(entry, True) and reply["rested"]

    def outcome(self) -> Outcome:
        found = {
            entry: Measured(
                tuple(self._times[entry]),
                self._facts[entry]["bytes_read"],
                self._answers[entry],
                self._rested[entry],
            )
            for entry in self.entries
        }
        return Outcome(found, tuple(self.failures))

    def _drop(self, entry: Entry, lost: Lost) -> None:
        """Take the case out, or with its process all of the contender's."""
        lost_cases = [e for e in self.entries if e == entry or (lost.gone and e[0] == entry[0])]
        self.failures.append(Failure(entry[0], None if lost.gone else entry[1], str(lost), lost.absent))
        for case in lost_cases:
            del self.entries[case]
