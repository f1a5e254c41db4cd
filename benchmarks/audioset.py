"""Fetching from a server on loopback: videos a second with one and with eight fetchers, bytes fetched per byte kept.

`make bench` writes benchmarks/audioset.json. Videos are 60 s long, of 384 x 288 pixels and 0.5 Mbit/s with stereo
sound; the server sends what it has at once ("loopback"), or 1 MB/s a connection ("paced"), as the web does.
"""
import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from manifests import media  # noqa: E402
from pipelines import sample  # noqa: E402
from tests.pipelines.server import Reply, serving  # noqa: E402

SECONDS, RATE, FPS = 60, 44100, 25
ONTOLOGY = [{"id": "/m/04rlf", "name": "Music", "child_ids": []}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=24)
    values = parser.parse_args()
    body = video()
    results = {"machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
               "videos": values.videos, "seconds": SECONDS, "bytes": len(body)}
    for speed, span, pause in (("loopback", "track", 0.0), ("loopback", "segment", 0.0),
                               ("paced", "track", 16384 / 1e6)):
        results[f"{speed} {span}"] = measured(values.videos, Reply(body, "video/mp4", pause=pause), span)
        print(speed, span, json.dumps(results[f"{speed} {span}"]), file=sys.stderr)
    (HERE / "audioset.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def measured(videos: int, reply: Reply, span: str) -> dict:
    """Of builds with 1 and 8 fetchers. The time is from the first request to the last shard of the clip store: what is
    measured meanwhile, by the same processes, is in it, and so is what each fetcher loads before its first request.
    """
    rates = {}
    for fetchers in (1, 8):
        # The same bytes under other names: each is fetched in full.
        with serving({f"video-{number}": reply for number in range(videos)}) as server, \
                tempfile.TemporaryDirectory() as folder:
            lists = Path(folder, "list.csv")
            lists.write_text("".join(f'{key}, 30.000, 40.000, "/m/04rlf"\n' for key in server.routes))
            Path(folder, "ontology.json").write_text(json.dumps(ONTOLOGY))
            subprocess.run([sys.executable, "-m", "pipelines", "build", "--source", "audioset",
                            "--out", f"{folder}/out", "--segments", str(lists),
                            "--ontology", f"{folder}/ontology.json", "--url", server.template,
                            "--assignment", "shared", "--mucaps-span", span, "--workers", "2",
                            "--fetchers", str(fetchers)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            store = Path(folder, "out", "stages", "fetch", "audioset")
            markers = [json.loads(path.read_text()) for path in store.glob("*.json")]
            rows = [row for marker in markers for row in marker["rows"].values()]
            if len(rows) != videos or any(row["outcome"] != "done" for row in rows):
                raise RuntimeError(f"{[row['outcome'] for row in rows]}")
            began = min(marker["started"] for marker in markers)
            ended = max(marker["started"] + marker["seconds"] for marker in markers)
            rates[fetchers] = videos / (ended - began)
            fetched, kept = sum(server.sent.values()), sum(row["bytes"] for row in rows)
    return {"videos_per_second_1_fetcher": round(rates[1], 3), "videos_per_second_8_fetchers": round(rates[8], 3),
            "ratio": round(rates[8] / rates[1], 2), "fetched_share_of_the_source": round(
                fetched / (videos * len(reply.body)), 3), "bytes_fetched_per_byte_kept": round(fetched / kept, 2)}


def video() -> bytes:
    """A minute of the sample corpus' music under moving pictures, as mp4."""
    songs = [key for key in sample.ids(0, 40) if sample.spec(key).bad is None][:6]

    sound = np.concatenate([media.decode_audio(sample.render(key)).mono(RATE)[: 10 * RATE] for key in songs])
    target, rng = io.BytesIO(), np.random.default_rng(0)
    with av.open(target, "w", format="mp4") as sink:
        picture = sink.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        picture.width, picture.height, picture.pix_fmt, picture.bit_rate = 384, 288, "yuv420p", 500_000
        picture.gop_size = 5 * FPS
        voice = sink.add_stream("aac", rate=RATE, layout="stereo")
        scene = rng.integers(0, 256, (288, 1200, 3), np.uint8)
        fifo = av.AudioFifo()
        for second in range(SECONDS):
            for number in range(second * FPS, (second + 1) * FPS):
                left = 2 * number % 800
                window = np.ascontiguousarray(scene[:, left:left + 384] // 4 + 64)
                frame = av.VideoFrame.from_ndarray(window, format="rgb24")
                sink.mux(picture.encode(frame))
            part = sound[second * RATE: (second + 1) * RATE].astype(np.float32)
            heard = av.AudioFrame.from_ndarray(np.stack([part, part]), format="fltp", layout="stereo")
            heard.sample_rate, heard.pts = RATE, second * RATE
            fifo.write(heard)
            for piece in fifo.read_many(1024, second == SECONDS - 1):
                sink.mux(voice.encode(piece))
        for stream in (picture, voice):
            sink.mux(stream.encode(None))
    return target.getvalue()


if __name__ == "__main__":
    main()
