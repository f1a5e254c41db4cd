"""Media for tests, made here: nothing is downloaded, and nothing outside the repository is needed."""
import io
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "media"


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """Real music, speech, noise and broken files, where a checkout has them beside it."""
    if not SHARED.is_dir():
        pytest.skip("no shared media beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def toy_hub(tmp_path_factory) -> dict[str, str]:
    """The environment in which the production ids of all captioning models are toys, and there is no network."""
    from tests.captioners import toy_blip, toy_chat, toy_mullama, toy_videomae
    cache = tmp_path_factory.mktemp("hub")
    for toy in (toy_mullama, toy_blip, toy_videomae, toy_chat):
        toy.save(cache)
    return {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """An S3 server on loopback, for this process and those that it starts; yields its address."""
    from moto.server import ThreadedMotoServer
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
                            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", f"http://{host}:{port}")):
            patch.setenv(name, value)
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(object_store) -> str:
    """The URL of an empty bucket."""
    import s3fs
    name = f"test-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


def encode(samples: np.ndarray, rate: int, container: str, codec: str, *, pictures: int = 0, cover: bool = False,
           bit_rate: int | None = None) -> bytes:
    """An audio file of float32 [channels, n], with `pictures` video frames (10 a second) where asked for."""
    target = io.BytesIO()
    with av.open(target, "w", format=container, options={"fflags": "+bitexact"}) as sink:
        sound = sink.add_stream(codec, rate=rate, layout="mono" if len(samples) == 1 else "stereo")
        if bit_rate:
            sound.bit_rate = bit_rate
        if pictures:
            video = sink.add_stream("libx264" if container in ("mp4", "matroska", "mov") else "libvpx", rate=10)
            video.width, video.height, video.pix_fmt, video.thread_count = 64, 48, "yuv420p", 1
            for index in range(pictures):
                picture = np.full((48, 64, 3), (index * 40) % 256, np.uint8)
                sink.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            sink.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), format="fltp",
                                           layout="mono" if len(samples) == 1 else "stereo")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=sound.codec_context.format, layout=sound.codec_context.layout, rate=rate,
                                      frame_size=sound.codec_context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            sink.mux(sound.encode(part))
        sink.mux(sound.encode())
    return target.getvalue()


def tone(seconds: float, rate: int = 22050, hertz: float = 440.0, amplitude: float = 0.5) -> np.ndarray:
    """A sine, float32 [1, n]."""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]
