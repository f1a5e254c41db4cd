"""Model libraries without their remarks, and with errors that tell what to do."""
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manifests.messages import one_line


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no remarks of transformers; nor what bitsandbytes says when it is first imported, and at
    every multiplication of bfloat16 by eight bits."""
    from transformers.utils import logging as theirs
    remarks = logging.getLogger("bitsandbytes")
    level, bars, ours = theirs.get_verbosity(), theirs.is_progress_bar_enabled(), remarks.level
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    remarks.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        remarks.setLevel(ours)
        if bars:
            theirs.enable_progress_bar()


@contextmanager
def reading(folder: Path, what: str) -> Iterator[None]:
    """Whatever reading a folder's files raises, as a ValueError that names it and what was read; but not that the
    memory is full."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    try:
        yield
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError,
            SafetensorError, StrictDataclassError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported to read a config
            raise
        said = "".join(letter for letter in one_line(error)[:300] if letter.isprintable())
        raise ValueError(f"{folder}: {what} cannot be read ({said}): not there, not whole, or another model's; check "
                         "the path, or fetch it again") from error
