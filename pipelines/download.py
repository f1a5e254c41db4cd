"""One clip from the web, by yt-dlp: a whole sound track, or a labelled segment cut to the sample (pipelines.span).

Whatever goes wrong ends in a `Loss` with the reason.
"""
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from manifests import media
from manifests.media import MediaError
from manifests.outcomes import Loss
from pipelines import span
from pipelines.blame import NOT_NOW, blame

YOUTUBE = "https://www.youtube.com/watch?v={id}"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SOUND = "ba/b/bv*"  # at last a picture alone: to find that there is no sound needs no download
_PICTURE = "bv*[height<=?480]+ba/b[height<=?480]/bv*+ba/b/bv*"
_PROXIES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


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
                parts = span.segment(ydl, info, segment, folder)
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
    report = re.sub(r"([\\:'])", r"\\\1", span.report_path(folder)).replace("%", "%%")
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
        "format": settings.format or (_PICTURE if picture else _SOUND), "outtmpl": span.FILE, "paths": {"home": folder},
        "merge_output_format": "mkv", "nopart": True, "overwrites": True, "updatetime": False, "fixup": "never",
        "noplaylist": True, "playlist_items": "1", "cachedir": False, "cookiefile": cookies, "progress_hooks": [limit],
        "quiet": True, "no_warnings": False, "noprogress": True, "color": "never", "logger": log,
        "socket_timeout": span.TIMEOUT,
        **dict.fromkeys(("retries", "fragment_retries", "extractor_retries"), span.RETRIES),
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), lambda n: span.WAIT),
        "skip_unavailable_fragments": False,  # a hole would be no error
        "ffmpeg_location": _ffmpeg(), "js_runtimes": _runtimes(),
    }
    if settings.proxy is not None:
        options["proxy"] = settings.proxy
    if settings.user_agent is not None:
        options["http_headers"] = {"User-Agent": settings.user_agent}
    if segment["start"] is not None:
        around = (max(0.0, segment["start"] - span.LEAD), segment["end"] + span.TAIL)
        options |= {"download_ranges": download_range_func(None, [around]), "force_keyframes_at_cuts": True}
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
    elif duration and segment["end"] > duration + span.ROUNDED + span.SHORT:
        raise Loss("too_short", f"the source ends at {duration:.1f} s")


def _whole(ydl, info: dict, segment: dict, settings: Settings) -> dict:
    path = span.fetch(ydl, info)
    with open(path, "rb") as file:
        span.recognise(file.read(512))
    try:
        parts = media.part(path)
        seconds = media.decode_audio(parts["audio"], seconds=1).duration
    except MediaError as error:
        raise span.unusable(error) from error
    duration = info.get("duration")
    if duration and seconds < duration - max(1.0, 0.01 * duration):
        raise Loss("network", f"broke off: {seconds:.1f} of {duration:.1f} s came")
    if seconds > settings.max_duration:
        raise Loss("too_long", f"{seconds:.1f} s")
    return parts if segment["video"] else parts | {"video": None, "video_format": None}
