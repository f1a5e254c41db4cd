"""Model libraries without their remarks, and with errors that tell what to do."""
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.messages import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn


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


def whole(kind: type, source: Path | None, *, dtype: "torch.dtype", where: Path, lacks: tuple[str, ...] = (),
          **settings: object) -> "nn.Module":
    """transformers' `kind` of a folder, or of `config` and `state_dict` in `settings`, with every weight of it there
    but those whose names begin with one of `lacks`. Raises ValueError that names `where`."""
    with quiet(), reading(where, f"{kind.__name__}'s weights (model.safetensors or pytorch_model.bin) and config.json"):
        model, found = kind.from_pretrained(source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True,
                                            **({"local_files_only": True} if source else {}), **settings)
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith(lacks)):
        raise ValueError(f"{where}: holds no {', '.join(missing[:5])}: is this a {kind.__name__}?")
    if wrong := sorted(str(one[0]) for one in found["mismatched_keys"]):
        raise ValueError(f"{where}: its config gives other shapes to {', '.join(wrong[:5])}; fetch it again")
    return model.requires_grad_(False).eval()
