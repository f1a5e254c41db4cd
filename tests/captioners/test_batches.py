import weakref

import pytest
import torch

from captioners.batches import OUT_OF_MEMORY, answered


class Model:
    """Doubles numbers: `fits` at a time, and raises at those that are `bad`."""

    def __init__(self, fits: int = 1000, bad: tuple = (), error: Exception | None = None) -> None:
        self.fits, self.bad, self.asked = fits, bad, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def __call__(self, items: list) -> list:
        self.asked.append(items)
        if len(items) > self.fits:
            raise self.error
        if found := [item for item in items if item in self.bad]:
            raise ValueError(f"{found[0]} is bad")
        return [2 * item for item in items]


def test_a_batch_that_fits_is_asked_once():
    model = Model()
    assert answered(model, range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert model.asked == [[*range(7)]]


def test_nothing_is_asked_of_nothing():
    model = Model()
    assert answered(model, []) == [] == answered(model, ())
    assert model.asked == []


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to "
                 "allocate 8 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to "
                 "allocate 8 bytes.")])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(error):
    model = Model(fits=2, error=error)
    assert answered(model, range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert model.asked == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3], [0, 1], [2, 3], [4, 5, 6], [4, 5], [6]]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_what_does_not_fit_even_alone_is_told(error):
    found = answered(Model(fits=0, error=error), range(3))
    assert [type(one) for one in found] == [MemoryError] * 3
    assert {str(one) for one in found} == {OUT_OF_MEMORY}


@pytest.mark.parametrize("bad", range(7))
def test_one_bad_of_seven_loses_itself_alone(bad):
    model = Model(bad=(bad,))
    found = answered(model, range(7))
    assert [one for place, one in enumerate(found) if place != bad] == [2 * one for one in range(7) if one != bad]
    assert type(found[bad]) is ValueError and str(found[bad]) == f"{bad} is bad"
    assert len(model.asked) <= 7  # 1 + 2 for each halving


def test_each_bad_one_has_its_own_error():
    found = answered(Model(bad=(1, 2, 6)), range(8))
    assert [str(one) for one in found] == ["0", "1 is bad", "2 is bad", "6", "8", "10", "6 is bad", "14"]


def test_all_bad():
    found = answered(Model(bad=tuple(range(5))), range(5))
    assert [str(one) for one in found] == [f"{place} is bad" for place in range(5)]
    assert all(type(one) is ValueError for one in found)


def test_bad_ones_in_batches_too_large():
    found = answered(Model(fits=2, bad=(3,)), range(6))
    assert [str(one) for one in found] == ["0", "2", "4", "3 is bad", "8", "10"]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_answers_is_the_models_fault(count):
    with pytest.raises(RuntimeError, match=f"^{count} answers to 3 questions$"):
        answered(lambda items: range(count), range(3))


def test_a_generator_that_raises_is_halved_like_any():
    assert [str(one) for one in answered(lambda items: (6 // item for item in items), [1, 0, 3])] == [
        "6", "integer division or modulo by zero", "2"]


@pytest.mark.parametrize("error", [ImportError("no bitsandbytes"), ModuleNotFoundError("none"), KeyboardInterrupt()])
def test_what_is_nobodys_fault_is_raised(error):
    def ask(items):
        raise error

    with pytest.raises(type(error)) as raised:
        answered(ask, range(4))
    assert raised.value is error


class Tensor:
    """What fills a memory."""


@pytest.mark.parametrize("circle", [False, True])
def test_what_filled_the_memory_is_let_go_before_the_next_try(circle):
    held, alive = [], []

    def ask(items):
        alive.append(sum(one() is not None for one in held))
        big = Tensor()
        held.append(weakref.ref(big))
        if len(items) > 1 and circle:
            error = torch.OutOfMemoryError("CUDA out of memory")  # this frame holds it, and it holds this frame
            raise error
        if len(items) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return items

    assert answered(ask, range(4)) == [0, 1, 2, 3]
    assert alive == [0] * 7


def test_an_error_that_is_returned_holds_nothing():
    held = []

    def ask(items):
        big = Tensor()
        held.append(weakref.ref(big))
        raise ValueError("bad")

    found = answered(ask, range(2))
    assert [str(one) for one in found] == ["bad", "bad"] and not any(one() for one in held)


class AcceleratorError(RuntimeError):
    """Named as torch's, of a GPU that is lost to the process."""


def test_a_gpu_that_is_lost_is_no_items_fault():
    def ask(items: list) -> list:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(AcceleratorError):
        answered(ask, [1, 2, 3])
