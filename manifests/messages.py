"""Words for a person about input that may be anything."""
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named(url: str) -> Iterator[None]:
    """Whatever a file system raises, as an OSError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{url}: no such file") from None
    except Exception as error:  # clients of object stores have exceptions of their own
        raise OSError(f"{url}: cannot be read ({one_line(error)})") from error


def shown(value: str | bytes) -> str:
    """A value that may be anything, short and in ASCII: it must not garble a terminal."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return ascii(text[:40]) + "..." * (len(text) > 40)


def one_line(error: Exception) -> str:
    """The error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
