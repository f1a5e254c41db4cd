"""One clip from the web, by yt-dlp: a whole sound track, or a labelled segment cut to the sample.

Of a segment about its own bytes are asked for. ffmpeg, as yt-dlp's downloader, seeks and decodes them, a little more
than is wanted and without loss, and `manifests.cut` cuts and encodes once. A server that does not give parts of its
files is asked for the whole.

Whatever goes wrong ends in a `Loss` with the reason. A segment that comes out short has two: the source ends there
(too_short, for good), or the transfer broke off (network, asked again). What ffmpeg reports of the connection tells
them apart.
"""
import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from manifests import media
from manifests.cut import cut
from manifests.media import MediaError
from manifests.outcomes import Loss
from pipelines.blame import NOT_NOW, TIMED_OUT, blame, refusal

YOUTUBE = "https://www.youtube.com/watch?v={id}"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TIMEOUT = 20      # s without a byte, then the connection counts as broken
_RETRIES = 2       # after a connection broke or a server failed
_WAIT = 1          # s before each
_BREAKS = 8        # of ffmpeg's connection, each mended once, then it is given up
_TIMEOUTS = 2      # likewise
_LEAD, _TAIL = 1.0, 0.5  # s beyond the segment: decoders warm up, and the frame on display at its start is older
_SHORT = 0.1       # s that a segment may lack: AudioSet's ends are rounded
_ROUNDED = 1.0     # s that a told duration may be wrong by: YouTube's are whole seconds
_SOUND = "ba/b/bv*"  # at last a picture alone: to find that there is no sound needs no download
_PICTURE = "bv*[height<=?480]+ba/b[height<=?480]/bv*+ba/b/bv*"
_PROXIES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_FILE = "media.mkv"  # whatever its format: nobody goes by the name

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


@dataclass(frozen=True)
class Settings:
    """How the source is asked."""
    url: str = YOUTUBE               # template; {id} is the clip's source_id
    cookies: str | None = None       # a Netscape cookies file; it is read, never written
    proxy: str | None = None
    user_agent: str | None = None
    format: str | None = None        # yt-dlp's format selector, in place of ours
    max_bytes: int = 2**31           # larger downloads are lost; what is fetched for a segment alone is not counted
    max_duration: float = 4 * 3600   # s; longer tracks are lost, before they are downloaded where that is told


def download(asked: tuple[dict, str], settings: Settings) -> dict:
    """The media of a row of records.SEGMENT, as fields of records.CLIP; `Loss` with the reason where there is none.

    `asked`: the row and a folder, which is an empty scratch directory; nothing is written elsewhere, nothing is
    printed. OSError and MemoryError are this machine's fault, not the clip's. Environment variables are changed
    meanwhile: one call a process at a time.
    """
    from yt_dlp import YoutubeDL
    from yt_dlp.utils import YoutubeDLError

    segment, folder = asked
    if not _ID.fullmatch(segment["source_id"]):
        raise ValueError(f"not an id for a URL: {segment['source_id']!r}")
    if segment["start"] is not None and (length := segment["end"] - segment["start"]) > settings.max_duration:
        raise Loss("too_long", f"the segment is {length:.1f} s long")
    log, folder = _Log(), os.path.abspath(folder)
    try:
        with _environment(**_ours(folder)), YoutubeDL(_options(segment, settings, folder, log)) as ydl:
            info = _look(ydl, settings.url.replace("{id}", segment["source_id"]))
            _admit(info, segment, settings)
            if segment["start"] is None:
                parts = _whole(ydl, info, segment, settings)
            else:
                parts = _range(ydl, info, segment, folder)
    except YoutubeDLError as error:
        raise blame(error, log.warnings) from error
    return parts | {"source_id": segment["source_id"], "sha256": hashlib.sha256(parts["audio"]).hexdigest()}


def prepare() -> None:
    """Import what `download` needs."""
    import yt_dlp  # noqa: F401


def youtube(url: str) -> bool:
    return bool(re.fullmatch(r"(.+\.)?(youtube(-nocookie)?\.com|youtu\.be)", urlsplit(url).hostname or ""))


def preflight(settings: Settings) -> str | None:
    """What would keep every download from working, here or because of the settings, and what to do; or None."""
    if settings.proxy is not None:
        try:
            address = urlsplit(settings.proxy)
            _ = address.port  # ValueError where it is none
            sound = address.scheme in _PROXIES and address.hostname
        except ValueError:
            sound = False
        if not sound:  # not shown: there may be a password in it
            return f"proxy: an address like http://host:port is needed ({', '.join(_PROXIES)})"
    if settings.user_agent is not None and not settings.user_agent.isprintable():
        return "user agent: it must be one printable line"
    if settings.cookies is not None:
        from yt_dlp.cookies import YoutubeDLCookieJar
        try:
            YoutubeDLCookieJar(settings.cookies).load()
        except Exception as error:
            return f"cookies: {settings.cookies} cannot be used ({error}); export them in Netscape format"
    try:
        ffmpeg = _ffmpeg()
        subprocess.run([ffmpeg, "-version"], check=True, capture_output=True)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return f"ffmpeg does not run ({error}); reinstall imageio-ffmpeg, which brings it"

    from yt_dlp import YoutubeDL
    from yt_dlp.dependencies import yt_dlp_ejs
    with _environment(YTDLP_NO_PLUGINS="1"), YoutubeDL({"quiet": True, "js_runtimes": _runtimes()}) as ydl:
        try:
            ydl.build_format_selector(settings.format or _SOUND)
        except Exception as error:
            return f"format: yt-dlp does not understand {settings.format!r} ({type(error).__name__})"
        if not youtube(settings.url):
            return None
        found = [runtime.info for runtime in ydl._js_runtimes.values() if runtime and runtime.info]
    if not yt_dlp_ejs:
        return "YouTube needs yt-dlp's challenge scripts: pip install yt-dlp-ejs"
    if not any(runtime.supported for runtime in found):
        old = "".join(f"; {runtime.name} {runtime.version} is too old" for runtime in found)
        return f"YouTube needs a JavaScript runtime: pip install -U deno (2.3 or newer; node 22, bun, QuickJS do){old}"
    return None


class _Log:
    """yt-dlp's, kept quiet. Warnings are kept: YouTube's extractor goes on where others would raise."""

    def __init__(self):
        self.warnings: list[str] = []

    def debug(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    error = debug


@contextmanager
def _environment(**ours: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _ours(folder: str) -> dict[str, str]:
    """What yt-dlp, deno and ffmpeg take from the environment alone. ffmpeg's report goes to a file."""
    report = re.sub(r"([\\:'])", r"\\\1", _report(folder)).replace("%", "%%")
    return {"YTDLP_NO_PLUGINS": "1", "DENO_NO_UPDATE_CHECK": "1", "DENO_DIR": os.path.join(folder, "deno"),
            "FFREPORT": f"file={report}:level=32"}


def _options(segment: dict, settings: Settings, folder: str, log: _Log) -> dict:
    from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
    from yt_dlp.utils import download_range_func

    cookies = None
    if settings.cookies is not None:  # a copy: yt-dlp writes its jar back, and many processes have the one file
        cookies = os.path.join(folder, "cookies.txt")
        with open(os.open(cookies, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy, \
                open(settings.cookies, "rb") as original:
            shutil.copyfileobj(original, copy)
    FFmpegPostProcessor._ffmpeg_location.set(_ffmpeg())  # as its command line does: one of its checks looks here only
    received = {}

    def limit(progress: dict) -> None:
        # Of a range the "file" is what ffmpeg made of it, without loss: larger than what was sent.
        if "section_start" not in progress["info_dict"]:
            known = (progress.get(key) or 0 for key in ("downloaded_bytes", "total_bytes"))
            received[progress.get("filename")] = max(known)
            if (total := sum(received.values())) > settings.max_bytes:
                raise Loss("too_large", f"more than {settings.max_bytes} bytes" if progress["status"] == "downloading"
                           and not progress.get("total_bytes") else f"{total} bytes")

    picture = segment["video"]
    options = {
        "format": settings.format or (_PICTURE if picture else _SOUND), "outtmpl": _FILE, "paths": {"home": folder},
        "merge_output_format": "mkv", "nopart": True, "overwrites": True, "updatetime": False, "fixup": "never",
        "noplaylist": True, "playlist_items": "1", "cachedir": False, "cookiefile": cookies, "progress_hooks": [limit],
        "quiet": True, "no_warnings": False, "noprogress": True, "color": "never", "logger": log,
        "socket_timeout": _TIMEOUT, "retries": _RETRIES, "fragment_retries": _RETRIES, "extractor_retries": _RETRIES,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), lambda n: _WAIT),
        "skip_unavailable_fragments": False,  # a hole would be no error
        "ffmpeg_location": _ffmpeg(), "js_runtimes": _runtimes(),
    }
    if settings.proxy is not None:
        options["proxy"] = settings.proxy
    if settings.user_agent is not None:
        options["http_headers"] = {"User-Agent": settings.user_agent}
    if segment["start"] is not None:
        span = (max(0.0, segment["start"] - _LEAD), segment["end"] + _TAIL)
        options |= {"download_ranges": download_range_func(None, [span]), "force_keyframes_at_cuts": True}
    return options


def _ffmpeg() -> str:
    import imageio_ffmpeg
    return imageio_ffmpeg.get_ffmpeg_exe()


def _runtimes() -> dict[str, dict]:
    """For YouTube's challenges: deno, which our environment brings, or what else there is."""
    return {"deno": {"path": _deno()}, "node": {}, "bun": {}, "quickjs": {}}


def _deno() -> str | None:
    """Its path where the deno package is installed, on PATH or not; else yt-dlp looks for it."""
    with suppress(ImportError, FileNotFoundError):
        import deno
        return deno.find_deno_bin()
    return None


def _look(ydl, url: str) -> dict:
    """What the address gives: yt-dlp's information, formats chosen; of a page with many, its first."""
    info = ydl.extract_info(url, download=False)
    while info and info.get("_type") in ("playlist", "multi_video"):
        info = next(iter(info.get("entries") or ()), None)
    if not info:
        raise Loss("unsupported", "a page without media")
    return info


def _admit(info: dict, segment: dict, settings: Settings) -> None:
    """Loss where the information says already that nothing will come of it."""
    if info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
        raise Loss("live", NOT_NOW)
    if all(form.get("acodec") == "none" for form in info.get("requested_formats") or [info]):
        raise Loss("no_audio", "only a picture is offered")
    duration, size = info.get("duration"), info.get("filesize")
    if segment["start"] is None:
        if duration and duration > settings.max_duration:
            raise Loss("too_long", f"{duration:.1f} s")
        if size and size > settings.max_bytes:
            raise Loss("too_large", f"{size} bytes")
    elif duration and segment["end"] > duration + _ROUNDED + _SHORT:
        raise Loss("too_short", f"the source ends at {duration:.1f} s")


def _whole(ydl, info: dict, segment: dict, settings: Settings) -> dict:
    path = _fetch(ydl, info)
    with open(path, "rb") as file:
        _recognise(file.read(512))
    try:
        parts = media.part(path)
        seconds = media.decode_audio(parts["audio"], seconds=1).duration
    except MediaError as error:
        raise _unusable(error) from error
    duration = info.get("duration")
    if duration and seconds < duration - max(1.0, 0.01 * duration):
        raise Loss("network", f"broke off: {seconds:.1f} of {duration:.1f} s came")
    if seconds > settings.max_duration:
        raise Loss("too_long", f"{seconds:.1f} s")
    return parts if segment["video"] else parts | {"video": None, "video_format": None}


def _range(ydl, info: dict, segment: dict, folder: str) -> dict:
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
        time.sleep(_WAIT)
    return _cut_from_whole(ydl, info, segment, duration)


def _cut_from_range(ydl, info: dict, segment: dict, folder: str, duration: float | None) -> dict | None:
    """The segment out of what ffmpeg fetches around it; None where it cannot find the place."""
    start, end = segment["start"], segment["end"]
    lead = min(start, _LEAD)
    code, report = _transcode(ydl, info, segment, folder)
    if _LOST.search(report):
        return None  # what came is from elsewhere
    if (ends := _ends(report)) and ends <= start:
        raise _too_short(start, 0.0, ends)  # what came, if any, is what Ogg has nearest
    try:
        parts, seconds = cut(os.path.join(folder, _FILE), lead, lead + end - start, segment["video"])
    except (MediaError, FileNotFoundError):
        parts, seconds = None, 0.0
    refused = [int(status) for status in _REFUSED.findall(report) if status != "416"]  # that is beyond the end
    # Of a list of parts one may have been refused, and silence have taken its place.
    if parts and seconds >= end - start - _SHORT and not refused:
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
    if duration and duration > start + seconds + _ROUNDED:
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

    for old in (_report(folder), os.path.join(folder, _FILE)):
        with suppress(FileNotFoundError):
            os.remove(old)
    # yt-dlp maps streams itself where sound and picture are two files. V: no cover pictures.
    maps = [] if info.get("requested_formats") else ["-map", "0:a:0?", "-map", "0:V:0?"]
    picture = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", "-fps_mode", "passthrough", "-enc_time_base:v",
               "1:1000", "-vf", "scale=-2:'trunc(min(480,ih)/2)*2',format=yuv420p"] if segment["video"] else ["-vn"]
    ydl.params["external_downloader_args"] = {
        # Where the place it can begin to read from is far before, it would take the distance for a gap, and close it.
        "ffmpeg_i": ["-nostdin", "-dts_delta_threshold", "1000000", "-threads", "1",
                     "-rw_timeout", str(_TIMEOUT * 10**6),
                     "-reconnect", "1", "-reconnect_delay_max", "0",  # once, from where it broke off; and it is told
                     "-protocol_whitelist", "http,https,httpproxy,tls,tcp,crypto,data"],
        # The sound begins at the range's first sample, wherever the source's does; holes are filled.
        "ffmpeg_o": [*maps, "-af", "aresample=48000:async=1:first_pts=0", "-c:a", "pcm_f32le", "-bsf:a", "null",
                     *picture, "-threads", "1", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1",
                     "-f", "matroska"]}
    try:
        with _watched(folder):
            _fetch(ydl, info)
        return 0, _read(_report(folder))
    except DownloadError as error:
        if not (match := re.search(r"ffmpeg exited with code (-?\d+)", str(error))):
            raise
        return int(match[1]), _read(_report(folder))


@contextmanager
def _watched(folder: str) -> Iterator[None]:
    """End ffmpeg where its connection keeps breaking.

    Left alone it tries anew at each place that it looks at: dozens of requests, or minutes of silence.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            broken = [match[1] for match in _BROKEN.finditer(_read(_report(folder)))]
            if len(broken) >= _BREAKS or broken.count(TIMED_OUT) >= _TIMEOUTS:
                for child in psutil.Process().children():
                    with suppress(psutil.Error):
                        if any(argument.endswith(os.path.join(folder, _FILE)) for argument in child.cmdline()):
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
    path = _fetch(ydl, info)
    start, end = segment["start"], segment["end"]
    try:
        parts, seconds = cut(path, start, end, segment["video"])
    except MediaError as error:
        raise _unusable(error) from error
    if seconds < end - start - _SHORT:
        raise _too_short(start, seconds, duration)
    return parts


def _fetch(ydl, info: dict) -> str:
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
                _recognise(response.read(512))
                partial &= response.status == 206
        except YoutubeDLError as error:
            raise blame(error) from error
    return partial


def _report(folder: str) -> str:
    return os.path.join(folder, "ffmpeg.log")


def _recognise(head: bytes) -> None:
    """Loss where a file that begins so is no media."""
    if head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        raise Loss("unsupported", "a picture")
    with suppress(UnicodeDecodeError):
        text = head[:-3].decode() if len(head) > 500 else head.decode()
        if text and not re.search(r"[\0-\x08\x0e-\x1a]", text):
            raise Loss("unsupported", "text")


def _unusable(error: MediaError) -> Loss:
    return Loss("no_audio" if error.missing else "decode_error", str(error))


def _too_short(start: float, seconds: float, told: float | None) -> Loss:
    """Where the source ends: by what came of it after `start`, else by what it says of itself."""
    if seconds:
        told = start + seconds
    elif told is None or told > start:
        return Loss("too_short", f"the source ends before {start:.1f} s")
    return Loss("too_short", f"the source ends at {told:.1f} s")
