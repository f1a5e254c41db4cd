"""Asking a model many things at once, so that nothing is lost by their being many."""
import gc
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

OUT_OF_MEMORY = "out of memory, even alone"


def answered(ask: Callable[[list], Sequence], items: Sequence) -> list:
    """`ask(items)`, one answer each, in their order; what an item raises, even alone, in the place of its answer
    (with where it was raised as a note).

    A batch that does not fit the memory is halved, and so is one in which something raises, until what raises is
    alone: the others have their answers. What is no item's is raised: a missing package, a
    GPU that is lost.
    """
    items, fault = list(items), None
    try:
        answers = list(ask(items)) if items else []
    except ImportError:
        raise
    except Exception as error:  # whatever a model raises
        if _lost(error):
            raise
        if len(items) == 1:
            if _memory(error):
                return [MemoryError(OUT_OF_MEMORY)]
            place = traceback.extract_tb(error.__traceback__)[-1]
            error.add_note(f"{Path(place.filename).name}:{place.lineno}")
            return [error.with_traceback(None)]  # whose frames hold what the model held
        fault = "memory" if _memory(error) else "item"
    if fault is None:
        if len(answers) != len(items):
            raise RuntimeError(f"{len(answers)} answers to {len(items)} questions")
        return answers
    if fault == "memory":  # out here, since the exception's frames hold what filled it
        _release()
    middle = (len(items) + 1) // 2
    return [*answered(ask, items[:middle]), *answered(ask, items[middle:])]


def _lost(error: Exception) -> bool:
    """A GPU that an error has left unusable for this process: no item is to blame, and none will fare better."""
    return type(error).__name__ == "AcceleratorError" and not _memory(error)


def _memory(error: Exception) -> bool:
    """Of a GPU (torch.OutOfMemoryError), or of the machine, for which torch has no type."""
    return (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            or any(words in str(error) for words in ("out of memory", "not enough memory", "can't allocate memory",
                                                     "ALLOC_FAILED")))


def _release() -> None:
    gc.collect()  # an exception that its own frames hold is a circle
    import torch  # it is there already: something of it ran out of memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
