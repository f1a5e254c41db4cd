"""When to stop asking a source: a circuit breaker whose state lies under OUT, seen by every worker on every machine.

A source that asks whether we are a robot, or to slow down, has not lost a clip: asking on would only make it worse. So
the first such answer opens the breaker, and as many failures in a row as suggest that the source is down. While it is
open nothing is asked for; then one more answer of that kind opens it for twice as long, and a success closes it.
"""
import time
from dataclasses import dataclass, field

from manifests import storage
from manifests.outcomes import Loss

OPENS = ("bot_check", "rate_limited")
COUNTS = ("network", "forbidden", "server_error", "failed", "interrupted")
PATIENCE = 10              # of those in a row, in one fetcher
FIRST, LONGEST = 900.0, 86400.0  # s


@dataclass
class Breaker:
    """Of one fetcher, in a build's folder `out`."""
    out: str
    failures: int = field(default=0, init=False)  # in a row, in this fetcher

    def state(self) -> dict | None:
        """What was noted when it opened: reason, detail, since, until (s since 1970), times; None while it is closed.

        Past `until` the source may be asked again.
        """
        try:
            return storage.read_json(self._url)
        except FileNotFoundError:
            return None

    def open(self) -> dict | None:
        state = self.state()
        return state if state and time.time() < state["until"] else None

    def failed(self, loss: Loss) -> None:
        """Take note of how asking for a clip ended."""
        if loss.reason in COUNTS:
            self.failures += 1
        elif loss.reason not in OPENS:
            self.failures = 0  # the source answered, about this clip
        if loss.reason not in OPENS and self.failures < PATIENCE:
            return
        state, now = self.state(), time.time()
        if state and now < state["until"]:
            return  # another fetcher was told at the same time
        times = state["times"] + 1 if state else 1
        storage.write_json(self._url, {"reason": loss.reason, "detail": loss.detail, "since": now, "times": times,
                                       "until": now + min(FIRST * 2 ** (times - 1), LONGEST)})

    def succeeded(self) -> None:
        self.failures = 0
        if self.state() and not self.open():
            storage.remove(self._url)

    def told(self) -> str | None:
        """For a person; None while it is closed."""
        if state := self.open():
            return (f"fetching stopped at {_clock(state['since'])}: {state['reason']} ({state['detail']}). Nothing is "
                    f"lost; the same command asks again from {_clock(state['until'])} on. To ask sooner, remove "
                    f"{self._url}")
        return None

    @property
    def _url(self) -> str:
        return storage.join(self.out, "stages", "fetch", "breaker.json")


def _clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
