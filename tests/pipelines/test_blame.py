import errno
import os

import pytest

from manifests import outcomes
from pipelines.blame import blame

HINT = ("Use --cookies-from-browser or --cookies for the authentication. See  https://github.com/yt-dlp/yt-dlp/wiki/FAQ"
        "#how-do-i-pass-cookies-to-yt-dlp  for how to manually pass cookies. Also see  https://github.com/yt-dlp/yt-dlp/"
        "wiki/Extractors#exporting-youtube-cookies  for tips on effectively exporting YouTube cookies")


@pytest.mark.parametrize(("said", "reason", "detail"), [
    ("Video unavailable", "removed", "Video unavailable"),
    ("This video is not available", "forbidden", ...),
    ("This video isn't available anymore", "removed", ...),
    ("Video unavailable. This video has been removed by the uploader", "removed", ...),
    ("Video unavailable. This video is no longer available because the YouTube account associated with this video has "
     "been terminated.", "removed", ...),
    ("This video has been removed for violating YouTube's Terms of Service", "removed", ...),
    ("This video contains content from SME, who has blocked it on copyright grounds", "removed", ...),
    ("This live stream recording is not available.", "forbidden", ...),
    (f"Private video. Sign in if you've been granted access to this video. {HINT}", "private",
     "Private video. Sign in if you've been granted access to this video."),
    ("Video unavailable. This video is private", "private", ...),
    ("Video unavailable. This video contains content from SME, who has blocked it in your country on copyright grounds",
     "geo_blocked", ...),
    (f"Sign in to confirm you’re not a bot. {HINT}", "bot_check", "Sign in to confirm you’re not a bot."),
    (f"Please sign in. {HINT}", "bot_check", "Please sign in."),  # what a blocked address is told
    ("Video unavailable. YouTube is requiring a captcha challenge before playback", "bot_check", ...),
    ("All player responses are invalid. Your IP is likely being blocked by Youtube", "bot_check", ...),
    (f"Sign in to confirm your age. This video may be inappropriate for some users. {HINT}", "restricted",
     "Sign in to confirm your age. This video may be inappropriate for some users."),
    ("This video is available to this channel's members on level: A (or any higher level). Join this channel to get "
     "access to members-only content and other exclusive perks.", "restricted", ...),
    ("This video requires payment to watch", "restricted", ...),
    ("This video is only available to Music Premium members", "restricted", ...),
    (f"This video is only available for registered users. {HINT}", "restricted", ...),
    ("This video is DRM protected", "restricted", ...),
    ("Video unavailable. This content isn't available, try again later. The current session has been rate-limited by "
     "YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay between video requests to avoid "
     "exceeding the rate limit. For more information, refer to  https://github.com/yt-dlp/yt-dlp/wiki/Extractors"
     "#this-content-isnt-available-try-again-later", "rate_limited",
     "Video unavailable. This content isn't available, try again later. The current session has been rate-limited by "
     "YouTube for up to an hour"),
    ("Premieres in 2 hours", "live", "live, or not shown yet"),
    ("This live event will begin in 3 days.", "live", "live, or not shown yet"),
    ("We're processing this video. Check back later.", "server_error", ...),
    ("An error occurred. Please try again later.", "server_error", ...),
    ("The page needs to be reloaded.", "server_error", ...),
    ("Video unavailable. The following content is not available on this app. Watch on the latest version of YouTube",
     "forbidden", ...),
    ("Requested format is not available. Use --list-formats for a list of available formats", "forbidden",
     "Requested format is not available."),
    ("Something that nobody has said before", "forbidden", "Something that nobody has said before"),
])
def test_youtubes_words(said, reason, detail):
    """As yt-dlp raises them: an expected error with the player's reason."""
    from yt_dlp.utils import DownloadError, ExtractorError

    error = ExtractorError(said, expected=True, video_id="abc-_123")
    error.ie = "youtube"
    found = blame(DownloadError(f"\x1b[0;31mERROR:\x1b[0m {error}", (type(error), error, None)))
    assert found.reason == reason
    if detail is not ...:
        assert found.detail == detail
    assert found.reason in outcomes.REASONS
    assert "http" not in found.detail and "\x1b" not in found.detail and "abc-_123" not in found.detail


def test_what_was_raised_counts_before_what_was_said():
    from yt_dlp.networking.exceptions import TransportError
    from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnavailableVideoError

    def blamed(error: Exception, *warnings: str) -> tuple[str, str]:
        found = blame(DownloadError("ERROR: Video unavailable", (type(error), error, None)), list(warnings))
        return found.reason, found.detail

    assert blamed(GeoRestrictedError("Not here", countries=["DE"])) == ("geo_blocked", "Not here")
    reset = ConnectionResetError(errno.ECONNRESET, "x")
    assert blamed(ExtractorError("x", cause=TransportError(cause=reset))) == ("network", os.strerror(errno.ECONNRESET))
    full = UnavailableVideoError("x")
    full.__context__ = OSError(errno.ENOSPC, "No space left on device", "/some/where")
    for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        full.__context__ = OSError(number, "x", "/some/where")
        with pytest.raises(OSError) as caught:
            blamed(full)
        assert (caught.value.errno, caught.value.filename) == (number, None)


def test_where_an_error_says_nothing_the_warnings_count_but_never_for_good():
    from yt_dlp.utils import DownloadError, ExtractorError

    error = ExtractorError("Failed to extract any player response")
    raised = DownloadError(f"ERROR: {error}", (type(error), error, None))
    slow = "[youtube] Unable to download API page: HTTP Error 429: Too Many Requests (caused by <HTTPError 429>)"
    lost = "[youtube] Unable to download API page: ('Connection aborted.', <x at 0x7f>) (caused by TransportError())"
    old = "The provided YouTube account cookies are no longer valid. They have likely been rotated"
    gone = "[youtube] HTTP Error 404: Not Found"
    assert blame(raised, [slow, old, gone]).reason == "rate_limited"
    found = blame(raised, [old, lost])
    assert (found.reason, found.detail) == ("network", "broke off")
    found = blame(raised, [old, gone])
    assert (found.reason, found.detail) == ("failed", "yt-dlp: Failed to extract any player response")
