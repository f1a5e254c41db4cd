"""A labelled segment out of a file on the web: of it about its own bytes are asked for.

ffmpeg, as yt-dlp's downloader, seeks and decodes them, a little more than is wanted and without loss, and
`manifests.cut` cuts and encodes once. A server that does not give parts of its files is asked for the whole.

A segment that comes out short has two reasons: the source ends there (too_short, for good), or the transfer broke off
(network, asked again). What ffmpeg reports of the connection tells them apart.
"""
import errno
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from manifests.cut import cut
from manifests.media import MediaError
from manifests.outcomes import Loss
from pipelines.blame import TIMED_OUT, blame, refusal

TIMEOUT = 20       # s without a byte, then the connection counts as broken
RETRIES = 2       # after a connection broke or a server failed
WAIT = 1          # s before each
_BREAKS = 8        # of ffmpeg's connection, each mended once, then it is given up
_TIMEOUTS = 2      # likewise
LEAD, TAIL = 1.0, 0.5  # s beyond the segment: decoders warm up, and the frame on display at its start is older
SHORT = 0.1       # s that a segment may lack: AudioSet's ends are rounded
ROUNDED = 1.0     # s that a told duration may be wrong by: YouTube's are whole seconds
FILE = "media.mkv"  # whatever its format: nobody goes by the name

# What ffmpeg reports, at the beginning of a line: further in are the words of whoever made the file. That a
# connection broke; an unknown length, 2**64 - 1, is no promise that was broken.
_BROKEN = re.compile(r"^\[.*(Stream ends prematurely at \d+, should be (?!18446744073709551615)|timed out|Broken pipe|"
                     r"Connection reset|Connection refused|Network is unreachable|No route to host|Failed to resolve)",
                     re.MULTILINE)
_REFUSED = re.compile(r"^\[.*(?:HTTP error|Server returned) (\d{3})\b", re.MULTILINE)
# That it went on from where it was: what it takes for the segment is not.
_LOST = re.compile(r"^\[.*(could not seek|Seek to desired resync point failed)", re.MULTILINE)
_INPUT = re.compile(r"^Input #0", re.MULTILINE)
_AUDIO = re.compile(r"^ +Stream #0.*: Audio: ", re.MULTILINE)
_GUESSED = re.compile(r"^\[.*Estimating duration from bitrate", re.MULTILINE)
_DURATION = re.compile(r"^ +Duration: (\d+):(\d\d):(\d\d\.\d+)", re.MULTILINE)
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"<svg")


def segment(ydl, info: dict, segment: dict, folder: str) -> dict:
    """Media in the keys of `manifests.media.part`. `ydl` has yt-dlp's options of pipelines.download."""
    duration = info.pop("duration", None)  # yt-dlp would end the range there, and it may be rounded
    # ffmpeg would go past any proxy but this kind.
    through = all(re.match(r"http://|__noproxy__|(?!\w+://)", proxy or "") for proxy in ydl.proxies.values())
    for last in (False, True):
        try:
            if through and _gives_parts(ydl, info):
                parts = _cut_from_range(ydl, info, segment, folder, duration)
                if parts is not None:
                    return parts
            break
        except Loss as loss:
            if last or loss.reason not in ("network", "server_error") or loss.detail == TIMED_OUT:
                raise
        time.sleep(WAIT)
    return _cut_from_whole(ydl, info, segment, duration)


def _cut_from_range(ydl, info: dict, segment: dict, folder: str, duration: float | None) -> dict | None:
    """The segment out of what ffmpeg fetches around it; None where it cannot find the place."""
    start, end = segment["start"], segment["end"]
    lead = min(start, LEAD)
    code, report = _transcode(ydl, info, segment, folder)
    if _LOST.search(report):
        return None  # what came is from elsewhere
    if (ends := _ends(report)) and ends <= start:
        raise _too_short(start, 0.0, ends)  # what came, if any, is what Ogg has nearest
    try:
        parts, seconds = cut(os.path.join(folder, FILE), lead, lead + end - start, segment["video"])
    except (MediaError, FileNotFoundError):
        parts, seconds = None, 0.0
    refused = [int(status) for status in _REFUSED.findall(report) if status != "416"]  # that is beyond the end
    # Of a list of parts one may have been refused, and silence have taken its place.
    if parts and seconds >= end - start - SHORT and not refused:
        return parts
    _check_machine(folder, report)
    if refused:
        raise refusal(refused[-1])
    if broken := _BROKEN.search(report):
        raise Loss("network", TIMED_OUT if broken[1] == TIMED_OUT else "broke off")
    if code == -signal.SIGKILL:
        raise Loss("interrupted", "ffmpeg was killed")
    if not _INPUT.search(report):
        raise Loss("decode_error", "ffmpeg cannot open it")
    if not _AUDIO.search(report):
        raise Loss("no_audio", "there is no audio stream")
    if duration and duration > start + seconds + ROUNDED:
        raise Loss("network", f"{seconds:.1f} of {end - start:.1f} s came of a source that is {duration:.1f} s long")
    raise _too_short(start, seconds, ends)


def _ends(report: str) -> float | None:
    """Where the source ends, if its header says so; some are guessed from the first seconds' bit rate."""
    told = _DURATION.search(report)
    return 3600 * int(told[1]) + 60 * int(told[2]) + float(told[3]) if told and not _GUESSED.search(report) else None


def _check_machine(folder: str, report: str) -> None:
    """OSError or MemoryError where ffmpeg was short of what this machine should have given it."""
    if os.strerror(errno.ENOMEM) in report:
        raise MemoryError("ffmpeg")
    room = os.path.join(folder, "room")
    with open(room, "wb") as file:  # its report may have found none either
        file.write(bytes(2**20))
    os.remove(room)


def _transcode(ydl, info: dict, segment: dict, folder: str) -> tuple[int, str]:
    """Fetch the range, by ffmpeg: its exit status and its report. A status by HTTP is in the report alone."""
    from yt_dlp.utils import DownloadError

    for old in (report_path(folder), os.path.join(folder, FILE)):
        with suppress(FileNotFoundError):
            os.remove(old)
    # yt-dlp maps streams itself where sound and picture are two files. V: no cover pictures.
    maps = [] if info.get("requested_formats") else ["-map", "0:a:0?", "-map", "0:V:0?"]
    picture = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", "-fps_mode", "passthrough", "-enc_time_base:v",
               "1:1000", "-vf", "scale=-2:'trunc(min(480,ih)/2)*2',format=yuv420p"] if segment["video"] else ["-vn"]
    ydl.params["external_downloader_args"] = {
        # Where the place it can begin to read from is far before, it would take the distance for a gap, and close it.
        "ffmpeg_i": ["-nostdin", "-dts_delta_threshold", "1000000", "-threads", "1",
                     "-rw_timeout", str(TIMEOUT * 10**6),
                     "-reconnect", "1", "-reconnect_delay_max", "0",  # once, from where it broke off; and it is told
                     "-protocol_whitelist", "http,https,httpproxy,tls,tcp,crypto,data"],
        # The sound begins at the range's first sample, wherever the source's does; holes are filled.
        "ffmpeg_o": [*maps, "-af", "aresample=48000:async=1:first_pts=0", "-c:a", "pcm_f32le", "-bsf:a", "null",
                     *picture, "-threads", "1", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1",
                     "-f", "matroska"]}
    try:
        with _watched(folder):
            fetch(ydl, info)
        return 0, _read(report_path(folder))
    except DownloadError as error:
        if not (match := re.search(r"ffmpeg exited with code (-?\d+)", str(error))):
            raise
        return int(match[1]), _read(report_path(folder))


@contextmanager
def _watched(folder: str) -> Iterator[None]:
    """End ffmpeg where its connection keeps breaking.

    Left alone it tries anew at each place that it looks at: dozens of requests, or minutes of silence.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            broken = [match[1] for match in _BROKEN.finditer(_read(report_path(folder)))]
            if len(broken) >= _BREAKS or broken.count(TIMED_OUT) >= _TIMEOUTS:
                for child in psutil.Process().children():
                    with suppress(psutil.Error):
                        if any(argument.endswith(os.path.join(folder, FILE)) for argument in child.cmdline()):
                            child.kill()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _cut_from_whole(ydl, info: dict, segment: dict, duration: float | None) -> dict:
    """The segment out of the whole file, where a part of it cannot be had."""
    for name in ("download_ranges", "force_keyframes_at_cuts"):
        ydl.params.pop(name, None)
    path = fetch(ydl, info)
    start, end = segment["start"], segment["end"]
    try:
        parts, seconds = cut(path, start, end, segment["video"])
    except MediaError as error:
        raise unusable(error) from error
    if seconds < end - start - SHORT:
        raise _too_short(start, seconds, duration)
    return parts


def fetch(ydl, info: dict) -> str:
    """Download what the information says; the file's path."""
    result = ydl.process_ie_result(dict(info), download=True)
    return result["requested_downloads"][0]["filepath"]


def _gives_parts(ydl, info: dict) -> bool:
    """Whether the server gives parts of its files. Loss where it refuses, or gives no media."""
    from yt_dlp.networking import Request
    from yt_dlp.utils import YoutubeDLError

    partial = True
    for form in info.get("requested_formats") or [info]:
        if form["protocol"] in ("m3u8", "m3u8_native"):
            continue  # lists of parts
        if form["protocol"] not in ("http", "https"):
            return False
        headers = {**(form.get("http_headers") or {}), "Range": "bytes=0-511", "Accept-Encoding": "identity"}
        try:
            with ydl.urlopen(Request(form["url"], headers=headers)) as response:
                recognise(response.read(512))
                partial &= response.status == 206
        except YoutubeDLError as error:
            raise blame(error) from error
    return partial


def report_path(folder: str) -> str:
    return os.path.join(folder, "ffmpeg.log")


def recognise(head: bytes) -> None:
    """Loss where a file that begins so is no media."""
    if head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        raise Loss("unsupported", "a picture")
    with suppress(UnicodeDecodeError):
        text = head[:-3].decode() if len(head) > 500 else head.decode()
        if text and not re.search(r"[\0-\x08\x0e-\x1a]", text):
            raise Loss("unsupported", "text")


def unusable(error: MediaError) -> Loss:
    return Loss("no_audio" if error.missing else "decode_error", str(error))


def _too_short(start: float, seconds: float, told: float | None) -> Loss:
    """Where the source ends: by what came of it after `start`, else by what it says of itself."""
    if seconds:
        told = start + seconds
    elif told is None or told > start:
        return Loss("too_short", f"the source ends before {start:.1f} s")
    return Loss("too_short", f"the source ends at {told:.1f} s")
