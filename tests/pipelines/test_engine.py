import argparse

import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines import engine
from pipelines.engine import Engine
from pipelines.sandbox import Limits

HERE = Engine(6, "FnApiRunner", (), 900.0)


def parsed(*given: str) -> tuple[Engine, Limits]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    engine.add_arguments(parser)
    return engine.parse(parser, *parser.parse_known_args(given))


@pytest.mark.parametrize(("asked", "processes"), [
    ({}, 6), ({"small": True}, 1), ({"small": True, "least": 9}, 1), ({"least": 9}, 9), ({"most": 2}, 2),
    ({"least": 9, "most": 4}, 4), ({"most": 0}, 6)])
def test_as_many_processes_as_there_is_work_for(asked, processes):
    assert HERE.processes(**asked) == processes


def test_what_is_asked_for_is_what_there_is():
    where, limits = parsed("--workers", "3", "--max-file-seconds", "2", "--max-file-memory", "5")
    assert where == Engine(3, "FnApiRunner", (), 900.0) and where.local
    assert limits == Limits(2.0, 5)
    elsewhere, _ = parsed("--runner", "FlinkRunner", "--flink_master=there:1", "--worker-timeout", "4")
    assert (elsewhere.flags, elsewhere.timeout, elsewhere.local) == (("--flink_master=there:1",), 4.0, False)


def test_processes_are_started_here_only_where_there_are_several():
    for processes, started in ((0, "6"), (1, "1"), (2, "2")):
        pipeline = HERE.pipeline(processes)
        assert isinstance(pipeline.runner, FnApiRunner)
        assert pipeline._options.get_all_options()["direct_num_workers"] == int(started)


@pytest.mark.parametrize(("given", "said"), [
    (("--workers", "0"), "at least 1"), (("--max-file-seconds", "inf"), "must be more than 0"),
    (("--worker-timeout", "-1"), "must be more than 0"), (("--runner", "DaskRunner"), "loses data"),
    (("--flink_master=there:1",), "unrecognized arguments")])
def test_what_cannot_be_is_refused(given, said, capsys):
    with pytest.raises(SystemExit) as left:
        parsed(*given)
    assert left.value.code == 2 and said in capsys.readouterr().err
