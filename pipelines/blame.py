"""Whose fault it is that a download failed: yt-dlp's errors, and what sources say, as reasons of the ledger.

What may pass must never be held against a clip for good; what will not should not be asked again.
"""
import errno
import os
import re
import socket
from collections.abc import Iterator
from http.client import responses

from manifests.outcomes import TRANSIENT, Loss

# This machine's errors, never the clip's. (A socket's are others.)
MACHINE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
NOT_NOW = "live, or not shown yet"
TIMED_OUT = "timed out"
LONGEST = 200  # letters of a detail

# What extractors say, mostly YouTube's playability reasons; the first that is found counts.
_SAYINGS = [(re.compile(words, re.IGNORECASE), reason) for words, reason in (
    (r"not a bot|^please sign in|captcha|unusual traffic|IP is likely being blocked", "bot_check"),
    (r"rate-limited|too many requests", "rate_limited"),
    (r"private video|video is private", "private"),
    (r"in your (country|region|location)|from your location|geo.?restrict", "geo_blocked"),
    (r"confirm your age|age.restricted|inappropriate|members|premium|payment|purchase|\brent|registered users|"
     r"sign in|log ?in\b|subscri|DRM", "restricted"),
    (r"premieres|will begin|is offline|not currently live|live event has ended", "live"),
    (r"processing this video|being processed|an error occurred|needs to be reloaded|something went wrong|"
     r"internal error", "server_error"),
    (r"try again later", "rate_limited"),
    (r"not available on this app|playback on other websites|format is not available|no video formats", "forbidden"),
    (r"unable to download", "network"),
    (r"removed|terminated|deleted|no longer|anymore|does not exist|copyright|account.*closed|closed.*account",
     "removed"),
    # Said to whoever asks from the wrong place, or in the wrong way, as well.
    (r"not available|isn.t available", "forbidden"),
    (r"unavailable", "removed"))]


def blame(error: Exception, warnings: list[str] = ()) -> Loss:
    """The loss that an error of yt-dlp's means; raises OSError where this machine is to blame.

    What was raised counts first, then what was said; the warnings before it where it says nothing.
    """
    from yt_dlp.extractor.common import ExtractorError
    from yt_dlp.networking.exceptions import HTTPError, RequestError, TransportError
    from yt_dlp.utils import ContentTooShortError, GeoRestrictedError, UnsupportedError

    causes = list(causes_of(error))
    for cause in causes:
        if isinstance(cause, HTTPError):
            return refusal(cause.status)
        if isinstance(cause, (TransportError, ContentTooShortError)):
            return Loss("network", transport(cause))
        if isinstance(cause, RequestError):
            return Loss("forbidden", "yt-dlp cannot ask for it: an address or a proxy of no known kind")
        if isinstance(cause, OSError) and cause.errno in MACHINE:
            raise OSError(cause.errno, os.strerror(cause.errno)) from error
        if isinstance(cause, GeoRestrictedError):
            return Loss("geo_blocked", words_of(cause)[:LONGEST])
        if isinstance(cause, UnsupportedError):
            return Loss("unsupported", "a page without media")
    for number in MACHINE:
        if os.strerror(number) in str(error):
            raise OSError(number, os.strerror(number)) from error
    if loss := _meaning(str(error)):
        return loss
    for warning in reversed(warnings):
        # Less is known of what these are about: nothing is given up for good on their account.
        if (loss := _meaning(warning)) and loss.reason in TRANSIENT:
            return loss
    if any(isinstance(cause, ExtractorError) and cause.expected for cause in causes):
        return Loss("forbidden", words_of(error)[:LONGEST])
    return Loss("failed", f"yt-dlp: {words_of(error)}"[:LONGEST])


def _meaning(message: str) -> Loss | None:
    if match := re.search(r"HTTP Error (\d{3})", message):
        return refusal(int(match[1]))
    if re.search(r"Got error: |Did not get any data|content too short|fragment \d+ not found", message):
        return Loss("network", transport(message))
    words = words_of(message)
    for saying, reason in _SAYINGS:
        if saying.search(words):
            # Not every word stays the same from run to run: the hours until a premiere, the address of an object.
            constant = {"live": NOT_NOW, "network": transport(message)}
            return Loss(reason, constant.get(reason) or words[:LONGEST])
    return None


def refusal(status: int) -> Loss:
    reason = {401: "forbidden", 402: "rate_limited", 403: "forbidden", 404: "removed", 407: "network", 408: "network",
              410: "removed", 416: "network", 429: "rate_limited", 451: "geo_blocked"}.get(status)
    if reason is None:
        # Other 4xx may pass: a signed address that ran out, a server that dislikes our way of asking.
        reason = "server_error" if status >= 500 else "forbidden" if status >= 400 else "unsupported"
    return Loss(reason, f"HTTP {status} {responses.get(status, '')}".rstrip())


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what is behind it, nearest first, however yt-dlp has wrapped it."""
    waiting, seen = [error], set()
    while waiting:
        error = waiting.pop(0)
        if not isinstance(error, BaseException) or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        waiting += [(getattr(error, "exc_info", None) or (None, None))[1], getattr(error, "cause", None),
                    error.__cause__, error.__context__]


def transport(error: Exception | str) -> str:
    """What happened to the connection, without the addresses, ports and proxies' passwords that come with it."""
    for cause in causes_of(error):
        if isinstance(cause, socket.gaierror):
            return "the server's name is not known"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
    words = str(error).lower()
    known = (TIMED_OUT, "connection refused", "connection reset", "certificate", "not get any data")
    return next((saying for saying in known if saying in words), "broke off")


def words_of(error: Exception | str) -> str:
    """The error's own words, without yt-dlp's prefix, advice and addresses."""
    words = re.sub(r"\x1b\[[\d;]*m|https?://\S+", "", str(error))
    words = re.sub(r"^\s*(ERROR: )?(\[[\w:+]+\] ([\w-]+: )?)?", "", words)
    words = re.split(r" Use --|\(caused by|; please report|You might want|\. It is recommended|\n", words)[0]
    return " ".join(words.split())
