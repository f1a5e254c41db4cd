"""Progress: what run.json says last."""
import threading

from manifests import storage
from pipelines.progress import Progress


def test_a_look_under_way_does_not_write_running_over_the_end(tmp_path, monkeypatch):
    """A worker's death used to read as "stopped without an end", where the look's file was renamed last."""
    inside, ended = threading.Event(), threading.Event()
    write = storage.write_json

    def slow(url, content):
        content = dict(content)
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            ended.wait(0.3)
        write(url, content)

    progress = Progress(str(tmp_path), {}, workers=1, runner="local")
    monkeypatch.setattr(storage, "write_json", slow)
    watcher = threading.Thread(target=progress._look)
    watcher.start()
    inside.wait()
    progress.failed("a worker process died")
    ended.set()
    watcher.join()
    run = storage.read_json(storage.join(str(tmp_path), "run.json"))
    assert (run["state"], run["error"]) == ("failed", "a worker process died")
