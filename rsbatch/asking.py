"""When to ask for a job: learned from how long jobs like it took.

Rule: pure. Durations are counted by class (model, size, quality) in a histogram of geometric bins, so that memory is
bounded and old and new runs add up. From it comes the schedule that minimises

    mean delay + price × mean number of queries

by dynamic programming over the bins' edges and some between: with F the distribution, G its integral and W(a) the
least cost, from age a on, weighted with the chance that a job gets there,

    W(a) = price · (1 − F(a)) + min over t > a of G(t) − G(a) − F(a) · (t − a) + W(t)

where the middle is the delay of jobs that end between a and t. The minimum is over lines in F(a), so a convex hull
finds all of them in one pass. Rules of thumb (a query rate by the hazard's root) fail on bimodal durations, and
exponential backoff makes runs 9 to 15% longer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from math import ceil, exp, log, sqrt
from typing import Any, Protocol

from rsbatch.model import DEFAULT_MODEL

QUERY_INTERVAL = 3.0
"""Seconds between two queries of a job before anything is known, at most: what is asked less often teaches little."""
_USUAL = 48.0
"""Seconds that a job is thought to take before anything is known: they take 30 to 180, and the short ones are more."""
ENOUGH = 12
"""Durations of a class that are seen before its schedule is its own."""
CLASSES_MOST = 64
"""Classes that are told apart; what comes beyond shares one."""
LEAST, MOST = 0.5, 60.0
"""Seconds between two queries of a job: never less, never more."""

_RATIO = 1.015  # 0.7 s at 45 s: finer than the spacing of queries that comes out
_FIRST = 0.5
_BINS = 720  # to 6 hours
_EDGES = tuple(_FIRST * _RATIO**n for n in range(_BINS))
_PARTS = 4
"""Parts of a bin, at most, at whose ends a query may be: where jobs were seen to end, twice as fine as LEAST."""
_REMEMBERED = 2000.0
"""Durations that a class remembers; then the old ones fade, so that a service that changes is followed."""
_WIDEST = 0.12
"""The widest smoothing, as a share of the duration: enough for a dozen durations, too little to hide two modes."""
_TAIL = 4.0
"""What is later than all that was seen is thought to come up to this many times later."""


def kind_of(body: Mapping[str, Any]) -> str:
    """Name a request's class of durations: model, size and quality, such as `gpt-image-2 1024x1024 high`."""
    parts = (body.get("model") or DEFAULT_MODEL, body.get("size"), body.get("quality"))
    return " ".join(str(part)[:40] for part in parts if part)


def interval(price: float) -> float:
    """Give the seconds between two queries that cost least while nothing is known.

    Half of that is the delay, and a job that takes as long as usual is asked for _USUAL ÷ that times.
    """
    return min(QUERY_INTERVAL, max(LEAST, sqrt(2 * price * _USUAL)))


class QuerySchedule(Protocol):
    """Decides when a job is asked for next."""

    def delay(self, kind: str, age: float, price: float, most_queries: float) -> float:
        """Seconds to wait before asking for a job of class `kind` that is known to go on at `age` seconds.

        `price` is how many seconds of delay a query is worth; `most_queries` how many a job may have each second.
        """
        ...

    def ended(self, kind: str, low: float, high: float) -> None:
        """Take in that a job of class `kind` took more than `low` and at most `high` seconds."""
        ...

    def overall(self) -> float | None:
        """Seconds that a job takes on average, each class as often as it was seen; None if nothing is known."""
        ...


class FixedInterval:
    """Asks every `seconds`."""

    def __init__(self, seconds: float = QUERY_INTERVAL) -> None:
        self._seconds = seconds

    def delay(self, kind: str, age: float, price: float, most_queries: float) -> float:
        """Seconds until the next query: always the same."""
        return self._seconds

    def ended(self, kind: str, low: float, high: float) -> None:
        """Learn nothing."""

    def overall(self) -> float | None:
        """Nothing is known."""
        return None


class LearnedTimes:
    """Asks as the durations seen so far advise; `learned` is what an earlier run's `as_json` gave."""

    def __init__(self, learned: object = None) -> None:
        self._classes: dict[str, Durations] = {}
        known = learned if isinstance(learned, Mapping) else {}
        for kind, value in list(known.items())[:CLASSES_MOST]:
            durations = Durations.of_json(value)
            if durations is not None:
                self._classes[kind] = durations

    def delay(self, kind: str, age: float, price: float, most_queries: float) -> float:
        """See `QuerySchedule`: the best fixed interval until ENOUGH is seen of the class."""
        durations = self._of(kind)
        if durations.count < ENOUGH:
            return min(MOST, max(interval(price), 1.0 / most_queries))
        return durations.delay(age, price, most_queries)

    def ended(self, kind: str, low: float, high: float) -> None:
        """See `QuerySchedule`."""
        self._of(kind).add(low, high)

    def mean(self, kind: str) -> float | None:
        """Seconds that a job of this class takes on average, None if too few have been seen."""
        durations = self._of(kind)
        return durations.mean if durations.count >= ENOUGH else None

    def longest(self, kind: str) -> float:
        """Seconds that the longest job of this class took that is remembered; 0 if none is."""
        return self._of(kind).longest

    def overall(self) -> float | None:
        """See `QuerySchedule`."""
        total = sum(d.count for d in self._classes.values())
        return sum(d.mean * d.count for d in self._classes.values()) / total if total else None

    def as_json(self) -> dict[str, Any]:
        """Give what a later run may start from, by class."""
        return {kind: durations.as_json() for kind, durations in self._classes.items() if durations.count}

    def _of(self, kind: str) -> Durations:
        found = self._classes.get(kind)
        if found is None:
            if len(self._classes) >= CLASSES_MOST:
                kind = ""
            found = self._classes.setdefault(kind, Durations())
        return found


class Durations:
    """How long the jobs of one class took: a histogram, the distribution fitted to it, and schedules made of that."""

    def __init__(self) -> None:
        self._counts = [0.0] * _BINS
        self.count = 0.0
        self._weighted = 0.0
        self._fitted = 0.0
        self._shape: _Shape | None = None
        self._schedules: dict[int, tuple[int, ...]] = {}

    @property
    def mean(self) -> float:
        """Seconds on average; of no use before there is one."""
        return self._weighted / self.count if self.count else 0.0

    @property
    def longest(self) -> float:
        """Seconds of the longest, 0 before there is one."""
        return max((_EDGES[n] for n, c in enumerate(self._counts) if c), default=0.0)

    def add(self, low: float, high: float) -> None:
        """Count one job that took more than `low` and at most `high` seconds.

        Where in between it ended is not known: it is spread as far as is known, in proportion to what was fitted.
        """
        first = min(_BINS - 1, bisect_left(_EDGES, low))
        last = max(first, min(_BINS - 1, bisect_left(_EDGES, high)))
        shares = [_width(n) for n in range(first, last + 1)]
        if self._shape is not None:
            masses = self._shape.masses[first : last + 1]
            if sum(masses) > 1e-6:
                shares = masses
        total = sum(shares)
        for n, share in enumerate(shares, first):
            self._counts[n] += share / total
            self._weighted += share / total * _middle(n)
        self.count += 1
        if self.count > _REMEMBERED:
            self._counts = [c / 2 for c in self._counts]
            self.count, self._weighted, self._fitted = self.count / 2, self._weighted / 2, self._fitted / 2

    def delay(self, age: float, price: float, most_queries: float) -> float:
        """Seconds from `age` to the next query."""
        if self._shape is None or self.count > self._fitted * 1.1 + 1:
            self._shape, self._fitted = _Shape(self._counts, self.count), self.count
            self._schedules.clear()
        shape = self._shape
        most = max(most_queries * shape.mean, 0.5)  # of one job; past the bound, price × queries² is the product
        level = round(2 * log(max(price, shape.product / most**2), 2))
        schedule = self._schedules.get(level)
        if schedule is None:
            schedule = self._schedules[level] = best_queries(shape.edges, shape.parts, 2 ** (level / 2))
        at = bisect_left(shape.edges, age)
        wait = shape.edges[schedule[at]] - age if at < len(schedule) - 1 else MOST
        return min(MOST, max(LEAST, wait))

    def as_json(self) -> dict[str, Any]:
        """The histogram: the number of its first bin that is not empty, and counts from there on."""
        first = next(n for n, c in enumerate(self._counts) if c)
        last = max(n for n, c in enumerate(self._counts) if c)
        counts = [round(c, 2) for c in self._counts[first : last + 1]]
        return {"mean_s": round(self.mean, 1), "bins": 1, "first": first, "counts": counts}

    @classmethod
    def of_json(cls, value: object) -> Durations | None:
        """Read `as_json` back; None for what is not of this form."""
        if not isinstance(value, Mapping) or value.get("bins") != 1:
            return None
        first, counts = value.get("first"), value.get("counts")
        if type(first) is not int or not isinstance(counts, list) or not 0 <= first <= first + len(counts) <= _BINS:
            return None
        if not all(isinstance(c, int | float) and 0 <= c <= _REMEMBERED for c in counts):
            return None
        one = cls()
        one._counts[first : first + len(counts)] = [float(c) for c in counts]
        one.count = sum(one._counts)
        one._weighted = sum(c * _middle(n) for n, c in enumerate(one._counts))
        return one if one.count else None


class _Shape:
    """The distribution fitted to a histogram: smoothed on the scale of ratios, with a thin tail past all that was seen.

    `masses` by bin sum up to 1, and so do `parts`, which end at `edges` (seconds), finer where jobs were seen to end;
    `product` is the least mean delay × mean number of queries (Keller 1974: ½ (∫ √(density × survival))²), in seconds.
    """

    def __init__(self, counts: list[float], count: float) -> None:
        used = [n for n, c in enumerate(counts) if c > 0]
        mean = sum(n * c for n, c in enumerate(counts)) / count
        spread = sqrt(sum((n - mean) ** 2 * c for n, c in enumerate(counts)) / count) * log(_RATIO)
        # Silverman's rule (Density Estimation, 1986, 3.31), with a bound for distributions of several modes.
        width = min(_WIDEST, 0.9 * spread) * (ENOUGH / max(count, ENOUGH)) ** 0.2 / log(_RATIO)
        smooth = _smoothed(counts, max(0.5, width))
        tail = range(used[-1] + 1, min(_BINS, used[-1] + 1 + round(log(_TAIL) / log(_RATIO))))
        rest = 0.5 / (count + 1) if tail else 0.0
        total = sum(smooth)
        self.masses = [m / total * (1 - rest) for m in smooth]
        for n in tail:
            self.masses[n] += rest / len(tail)
        self.mean = sum(m * _middle(n) for n, m in enumerate(self.masses))
        root, left = 0.0, 1.0
        for n, mass in enumerate(self.masses):
            root += sqrt(mass * _width(n) * max(0.0, left - mass / 2))
            left -= mass
        self.product = root * root / 2
        self.edges, self.parts = _parted(self.masses, used[0], used[-1])


def _parted(masses: list[float], first: int, last: int) -> tuple[list[float], list[float]]:
    """Part the bins from `first` to `last`; gives the ends of all (seconds) and the share of each."""
    edges: list[float] = []
    shares: list[float] = []
    for n, mass in enumerate(masses):
        parts = min(_PARTS, ceil(_width(n) / LEAST * 2)) if first <= n <= last else 1
        edges += [_EDGES[n] - _width(n) * left / parts for left in reversed(range(parts))]
        shares += [mass / parts] * parts
    return edges, shares


def _smoothed(counts: list[float], width: float) -> list[float]:
    """Spread each count as a normal of standard deviation `width` bins; nothing leaves the ends."""
    reach = int(3 * width) + 1
    kernel = [exp(-((n / width) ** 2) / 2) for n in range(reach + 1)]
    whole = kernel[0] + 2 * sum(kernel[1:])
    smooth = [0.0] * _BINS
    for n, c in enumerate(counts):
        if c:
            for d in range(-reach, reach + 1):
                smooth[max(0, min(_BINS - 1, n + d))] += c * kernel[abs(d)] / whole
    return smooth


def best_queries(edges: Sequence[float], masses: Sequence[float], price: float) -> tuple[int, ...]:
    """Give, for each edge (seconds of age), the edge of the best next query; `masses` is the share that ends by each.

    Minimises mean delay + `price` × mean number of queries; the last edge ends all.
    """
    shares, areas = _integrals(edges, masses)
    last = len(edges) - 1
    following = [last] * len(edges)
    hull: deque[tuple[float, float, int]] = deque()  # lines: least cost at share x is height - time * x
    cost = 0.0
    for n in range(last - 1, -1, -1):
        line = (areas[n + 1] + cost, edges[n + 1], n + 1)
        while len(hull) > 1 and _meet(hull[-1], line) >= _meet(hull[-2], hull[-1]):
            hull.pop()
        hull.append(line)
        share, age = shares[n], edges[n]
        while len(hull) > 1 and hull[1][0] - hull[1][1] * share <= hull[0][0] - hull[0][1] * share:
            hull.popleft()
        height, time, following[n] = hull[0]
        cost = price * (1 - share) + height - time * share - areas[n] + share * age
    return tuple(following)


def _integrals(edges: Sequence[float], masses: Sequence[float]) -> tuple[list[float], list[float]]:
    """The share that has ended by each edge, and that share's integral over time, in seconds."""
    shares, areas = [], []
    share = area = before = 0.0
    for edge, mass in zip(edges, masses, strict=True):
        area += (edge - before) * (share + mass / 2)
        share = min(1.0, share + mass)
        before = edge
        shares.append(share)
        areas.append(area)
    return shares, areas


def _meet(later: tuple[float, float, int], sooner: tuple[float, float, int]) -> float:
    """The share at which two lines cost the same."""
    return (later[0] - sooner[0]) / (later[1] - sooner[1])


def _width(n: int) -> float:
    return _EDGES[n] - (_EDGES[n - 1] if n else 0.0)


def _middle(n: int) -> float:
    return _EDGES[n] - _width(n) / 2
