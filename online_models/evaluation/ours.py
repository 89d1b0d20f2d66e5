"""Our own learner as the stream job runs it: sources from the first event on, a version, and a blend that learns what to believe.

- The version is trained where tuning begins, and again where the test does, with what the blend has learned kept, as a product
  that retrains does. Nothing is chosen on the log: all settings are the shipped ones.
- Event by event as in the stream job: which events move their item and which the blend learns from, the same counts decide.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.contracts.ids import hashes_of
from online_models.evaluation.log import Log, Moment
from online_models.evaluation.protocol import Split, prequential
from online_models.evidence import clear
from online_models.history import ENTRY, RECENT_EVENTS
from online_models.learner import Trained, VersionLearner
from online_models.pacing import choices, moves
from online_models.sources import TOGETHER_WINDOW, Sources, Steps

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_STEPS_AT_ONCE: Final = 8192


class Ours:
    """A version and the sources beside it, in step with a log.

    sources, version : what the stream job would hold
    """

    def __init__(self, log: Log, until: int, trained: Trained) -> None:
        """The sources learn the groups before `until`; `trained` is what a version was trained to by then."""
        self._log = log
        self._entries = _entries(log)
        self.sources = Sources()
        end = int(log.begins[until])
        self.sources.rows_of(log.ids[: int(log.item[:end].max(initial=-1)) + 1])
        for begin in range(0, end, _STEPS_AT_ONCE):
            self.sources.learn(steps_of(log, begin, min(begin + _STEPS_AT_ONCE, end)))
        self.version = VersionLearner(trained, self.sources)

    def retrain(self, trained: Trained) -> None:
        """Go on with another version; what the blend has learned holds for it too."""
        self.version = VersionLearner(trained, self.sources, self.version.blend)

    def scores(self, at: Moment) -> F32:
        """See `Model`."""
        context, queries = self._asked(at)
        shares = self.sources.popularity.shares(at.ts_ms)
        scores, scratch = self.version.scores(context, len(context), queries, shares)
        clear(scratch)
        return scores

    def learn(self, at: Moment) -> None:
        """See `Model`."""
        log, blend = self._log, self.version.blend
        for event in range(at.begin, at.end):
            self.sources.rows_of([log.ids[log.item[event]]])
            self.version.grow()
            number = int(self.sources.popularity.arrays.events[0])
            if choices(int(blend.tried[0]), number, 1, self.version.fold_ins.items):
                self._choose(at, event)
                blend.tried += 1
            self._move(event)
            self.sources.learn(steps_of(log, event, event + 1))

    def _choose(self, at: Moment, event: int) -> None:
        """Let the blend learn that this item was taken, of all that its user had not met; by what was known before the group."""
        log = self._log
        context, queries = self._asked(at)
        met = log.item[log.history(event)]
        self.version.learn_choice(context, len(context), queries, at.ts_ms, met, log.item[event : event + 1])

    def _move(self, event: int) -> None:
        log, item = self._log, self._log.item[event : event + 1]
        count = int(self.sources.popularity.counts(item)[0])
        known = self._entries[log.history(event)[-RECENT_EVENTS:]]
        if len(known) and moves(np.array([count]))[0]:
            user = self.version.fold_ins.users(known, np.array([len(known)]))
            self.version.move_items(item, log.strength[event : event + 1], user)

    def _asked(self, at: Moment) -> tuple[I64, F32]:
        """Rows (n,) of the user's recent items and what the user asks for (QUERIES, k)."""
        recent = at.history[-RECENT_EVENTS:]
        queries: F32 = self.version.fold_ins.queries(self._entries[recent], np.array([len(recent)]))[0]
        return self._log.item[recent], queries


def ours(log: Log, split: Split, trained_at: Callable[[int], Trained]) -> Ours:
    """Ready for the test: it has predicted and learned the tuning stretch, and has just been retrained.

    trained_at : what a version is trained to by the events before a group
    """
    learner = Ours(log, split.tuning, trained_at(split.tuning))
    prequential(learner, log, split.tuning, split.test)
    learner.retrain(trained_at(split.test))
    return learner


def steps_of(log: Log, begin: int, end: int) -> Steps:
    """The events begin : end with the last `TOGETHER_WINDOW` items that their users met before.

    >>> log = Log.of("abc", np.zeros(3, np.int64), np.arange(3), np.arange(3), np.ones(3, np.float32))
    >>> steps = steps_of(log, 1, 3)
    >>> steps.item.tolist(), steps.context.tolist(), steps.ptr.tolist()
    ([1, 2], [0, 0, 1], [0, 1, 3])
    """
    many = np.minimum(log.place[begin:end], TOGETHER_WINDOW)
    ptr = np.concatenate([[0], np.cumsum(many)])
    last = log.first[log.user[begin:end]] + log.place[begin:end]
    at = np.repeat(last - many - ptr[:-1], many) + np.arange(int(ptr[-1]))
    return Steps(log.item[begin:end], log.ts_ms[begin:end], log.item[log.by_user[at]].astype(np.int32), ptr)


def _entries(log: Log) -> npt.NDArray[np.void]:
    """The events as histories hold them, ENTRY (n,)."""
    hashes = hashes_of(log.ids)
    entries = np.zeros(len(log), ENTRY)
    entries["ts_ms"], entries["strength"], entries["item"] = log.ts_ms, log.strength, hashes[log.item]
    entries["event"] = np.arange(len(log))
    return entries
