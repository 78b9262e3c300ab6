"""The backward pass in segments: each one computes again what it needs, and lets go of it before the next one begins.

    segmented : graph, cut -> which values to keep in addition, where the segments end

What is kept is a part of the memory; the other is what a segment has computed again. A program whose values are all
needed at once gains nothing from computing them again. So the forward part is divided at places where little of what is
computed again is alive, what is alive there is kept in addition, and the places are chosen such that

    max over segments of (bytes kept that are not yet done with + bytes computed again in the segment)

is least. The backward pass begins with the last segment, while everything is kept; the first ones may be larger.
"""

import bisect
import dataclasses

from liftax.ad.memory import cost
from liftax.ad.memory.cut import Cut, choice
from liftax.ad.memory.graph import Graph

ROUNDS = 14


@dataclasses.dataclass(frozen=True)
class Segmented:
    """A cut with the places where segments begin.

    Args:
        cut: the values kept, those kept for the sake of the segments among them.
        starts: numbers of equations, the first of them 0.
        peak: estimated bytes at the worst time of the backward pass.
    """

    cut: Cut
    starts: tuple[int, ...]
    peak: int


class _Lives:
    """How long each value that is computed again is in use, and what memory it takes."""

    def __init__(self, graph: Graph, cut: Cut):
        self.graph, self.cut = graph, cut
        again = set(cut.again)
        last: dict[int, int] = {}
        readers: dict[int, int] = {}
        stored: set[int] = set()
        for reads, place, step in zip(graph.step_reads, graph.step_place, graph.split.steps, strict=True):
            joined = is_joined(step)
            for v in reads:
                last[v] = max(last.get(v, 0), place)
                readers[v] = readers.get(v, 0) + 1
                if not joined:
                    stored.add(v)
        for i in reversed(cut.again):
            eqn = graph.split.equations[i]
            end = max((last.get(v, i) for v in graph.makes[i]), default=i) if graph.view[i] else i
            joined = graph.view[i] or is_joined(eqn)
            passed_on = graph.view[i] and any(v in stored for v in graph.makes[i])
            for v in graph.reads[i]:
                last[v] = max(last.get(v, 0), end)
                readers[v] = readers.get(v, 0) + 1
                if not joined or (passed_on and eqn.primitive.name not in ("broadcast_in_dim", "broadcast")):
                    stored.add(v)
        self.last = last
        self.bytes: dict[int, int] = {}  # of what can be alive between segments
        self.work = {}  # equation -> the bytes that its outputs take in a segment
        for i in cut.again:
            name = graph.split.equations[i].primitive.name
            dear = name in cost.DEAR or not is_joined(graph.split.equations[i])
            self.work[i] = 0
            for v in graph.makes[i]:
                if graph.view[i]:
                    continue
                self.bytes[v] = 0 if graph.may_keep is not None and not graph.may_keep(v) else graph.bytes[v]
                if v in stored or (dear and readers.get(v, 0) > 1):
                    self.work[i] += graph.bytes[v]
        self.again = again

    def alive(self) -> list[int]:
        """Return for each place the bytes that are alive just before the equation there."""
        ends = [0] * (len(self.graph.made_by) + len(self.graph.flops) + 2)
        for v, size in self.bytes.items():
            made = self.graph.made_by[v]
            if self.last.get(v, made) > made:
                ends[made + 1] += size
                ends[self.last[v] + 1] -= size
        total, out = 0, []
        for change in ends[: len(self.graph.flops) + 1]:
            total += change
            out.append(total)
        return out


def is_joined(eqn: object) -> bool:
    """Tell whether XLA computes `eqn` together with what it reads, so that this is never stored."""
    name = eqn.primitive.name  # type: ignore[attr-defined]
    return name in cost.ELEMENTWISE or name in cost.VIEWS or name.startswith(("reduce_", "arg")) or name == "mul"


def segmented(graph: Graph, cut: Cut, most: float = float("inf")) -> Segmented:
    """Divide the backward pass of a cut into segments.

    Args:
        graph: the program.
        cut: what is kept for it, and computed again.
        most: the bytes that may be kept, with what is kept for the sake of segments.
    """
    if not cut.again:
        return Segmented(cut, (0,), graph.kept_bytes(cut.kept))
    lives = _Lives(graph, cut)
    alive = lives.alive()
    kept_before = _kept_before(graph, cut)
    low, high = 0, kept_before[-1] + sum(lives.work.values())
    best: tuple[int, set[int], list[int]] | None = None
    for k in range(ROUNDS):
        limit = high if k == 0 else (low + high) // 2
        peak, extra, starts = _sweep(lives, alive, kept_before, limit)
        fits = graph.kept_bytes(cut.kept | extra) <= most
        if fits and (best is None or peak <= best[0]):
            best = (peak, extra, starts)
        if fits and peak <= limit:
            high = min(limit, peak)
        else:
            low = limit
        if high - low <= high // 100:
            break
    peak, extra, starts = best or (high, set(), [0])
    if extra:
        ran = set(cut.again)
        chosen = cut.kept | extra
        kept_from = {graph.made_by[v] for v in extra if len(graph.makes[graph.made_by[v]]) == 1}
        cut = choice(graph, lambda i: i in ran and i not in kept_from)
        cut = _with(graph, cut, chosen)
        lives = _Lives(graph, cut)
        alive = lives.alive()
    return Segmented(cut, _divided(lives, alive, starts), peak)


def _with(graph: Graph, cut: Cut, chosen: frozenset[int]) -> Cut:
    """Keep those of `chosen` that are read by what runs again or by the linear part, and run no more than needed."""
    again = graph.needed(set(chosen), graph.leaves)
    read = {v for i in again for v in graph.reads[i]} | set(graph.leaves)
    ran = set(again)
    kept = {v for v in read if graph.made_by[v] not in ran or v in chosen}
    return Cut(frozenset(kept), tuple(again))


def _kept_before(graph: Graph, cut: Cut) -> list[int]:
    """Return for each place the bytes that are kept of what was computed before it."""
    out = [0] * (len(graph.flops) + 2)
    for v in cut.kept:
        if not graph.free[v]:
            out[graph.made_by[v] + 1] += graph.bytes[v] * graph.times
    for i in range(1, len(out)):
        out[i] += out[i - 1]
    return out


def _sweep(lives: _Lives, alive: list[int], kept_before: list[int], limit: int) -> tuple[int, set[int], list[int]]:
    """Go through the program and begin a new segment where `limit` would be passed.

    Returns:
        The peak, the values to keep in addition, and where segments begin.
    """
    graph = lives.graph
    alive = list(alive)
    starts, extra, added, work, peak = [0], set[int](), 0, 0, 0
    recent: list[int] = []  # equations of the segment at hand
    whole = graph.times > 1  # in a loop all that is kept stays, whichever segment is at work
    for i in lives.cut.again:
        work += lives.work[i]
        recent.append(i)
        there = (kept_before[-1] if whole else kept_before[i + 1]) + added
        if there + work <= limit or len(recent) == 1:
            peak = max(peak, there + work)
            continue
        places = range(starts[-1] + 1, i + 1)
        at = min(reversed(places), key=alive.__getitem__, default=None)
        later = [j for j in recent if at is not None and j >= at]
        if at is None or len(later) == len(recent):
            peak = max(peak, there + work)
            continue
        for j in list(recent):
            if j < at:
                for v in graph.makes[j]:
                    _keep(lives, v, at, alive, extra)
        added = sum(graph.bytes[v] for v in extra) * graph.times
        starts.append(at)
        recent = later
        work = sum(lives.work[j] for j in recent)
        peak = max(peak, (kept_before[-1] if whole else kept_before[i + 1]) + added + work)
    return peak, extra, starts


def _keep(lives: _Lives, v: int, at: int, alive: list[int], extra: set[int]) -> None:
    """Keep `v` in addition if it is alive at the place `at`."""
    if v not in extra and lives.bytes.get(v) and lives.last.get(v, -1) >= at > lives.graph.made_by[v]:
        extra.add(v)
        for place in range(at + 1, lives.last[v] + 1):
            alive[place] -= lives.bytes[v]


def _divided(lives: _Lives, alive: list[int], starts: list[int]) -> tuple[int, ...]:
    """Add to `starts` the places where a division costs nothing, unless too little is computed again between two."""
    begins = set(starts)
    work, most = 0, 0
    for i in lives.cut.again:
        work = 0 if i in begins else work
        work += lives.work[i]
        most = max(most, work)
    out, work, before = [0], 0, -1
    for i in lives.cut.again:
        free = [p for p in range(before + 1, i + 1) if alive[p] == 0 and p > out[-1]]
        forced = [p for p in begins if before < p <= i and p > out[-1]]
        if forced:
            out.append(max(forced))
            work = 0
        elif free and work > most // 4:
            out.append(free[-1])
            work = 0
        work += lives.work[i]
        before = i
    return tuple(out)


def segment_of(starts: tuple[int, ...], place: int) -> int:
    """Return which segment an equation of the forward part, or a step that belongs there, is in."""
    return bisect.bisect_right(starts, place) - 1
