"""The breaker against a clock that the test moves."""
import pytest

from manifests import storage
from manifests.outcomes import Loss
from pipelines import breaker
from pipelines.breaker import FIRST, LONGEST, PATIENCE, Breaker


@pytest.fixture
def clock(monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(breaker.time, "time", lambda: now[0])
    return now


@pytest.mark.parametrize("reason", breaker.OPENS)
def test_one_such_answer_stops_every_fetcher(tmp_path, clock, reason):
    first, second = Breaker(str(tmp_path)), Breaker(str(tmp_path))
    assert first.open() is None and first.told() is None
    first.failed(Loss(reason, "HTTP 429"))
    assert second.open()["reason"] == reason
    assert "HTTP 429" in second.told() and reason in second.told()
    clock[0] += FIRST - 1
    assert second.open()
    clock[0] += 2
    assert second.open() is None


def test_the_pause_doubles_until_a_success(tmp_path, clock):
    one = Breaker(str(tmp_path))
    pauses = []
    for _ in range(10):
        one.failed(Loss("rate_limited"))
        pauses.append(one.open()["until"] - clock[0])
        one.failed(Loss("rate_limited"))  # another fetcher's, at the same time
        assert one.open()["until"] - clock[0] == pauses[-1]
        clock[0] += pauses[-1] + 1
    assert pauses == [min(FIRST * 2 ** times, LONGEST) for times in range(10)]
    one.succeeded()
    assert one.state() is None
    one.failed(Loss("bot_check"))
    assert one.open()["until"] - clock[0] == FIRST


def test_a_success_on_its_way_does_not_close_it(tmp_path, clock):
    one = Breaker(str(tmp_path))
    one.failed(Loss("rate_limited"))
    Breaker(str(tmp_path)).succeeded()
    assert one.open()


def test_a_source_that_is_down_is_left_alone(tmp_path, clock):
    one = Breaker(str(tmp_path))
    for _ in range(3):  # what ends for a reason of its own, or well, shows that the source is there
        for _ in range(PATIENCE - 1):
            one.failed(Loss("network"))
        one.failed(Loss("removed"))
        for _ in range(PATIENCE - 1):
            one.failed(Loss("server_error"))
        one.succeeded()
    assert one.open() is None
    for _ in range(PATIENCE):
        one.failed(Loss("forbidden", "HTTP 403"))
    assert one.open()["reason"] == "forbidden"
    assert storage.names(str(tmp_path / "stages" / "fetch")) == ["breaker.json"]
