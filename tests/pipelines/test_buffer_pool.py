"""Pooled memory: a block has one user at a time and is reused when its last view is gone."""

import gc
from concurrent.futures import ThreadPoolExecutor

import torch

from pipelines.system.buffer_pool import pooled_empty


def block(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_memory_is_lent_again_when_its_last_view_is_gone() -> None:
    tensor = pooled_empty((3, 777, 5), torch.float32)
    assert tensor.shape == (3, 777, 5) and tensor.dtype == torch.float32
    place, view = block(tensor), tensor.permute(2, 0, 1)[1:]
    del tensor
    gc.collect()
    assert block(pooled_empty((3, 777, 5), torch.float32)) != place, "a view still holds it"
    del view
    gc.collect()
    again = [pooled_empty((3, 777, 5), torch.float32) for _ in range(3)]
    assert place in map(block, again)


def test_what_autograd_keeps_is_not_lent() -> None:
    weight = torch.ones((), requires_grad=True)
    loss = (pooled_empty((40, 31), torch.float32).fill_(2) * weight).sum()
    pooled_empty((40, 31), torch.float32).fill_(7)
    loss.backward()
    assert weight.grad is not None and weight.grad.item() == 2 * 40 * 31


def test_threads_never_hold_the_same_memory() -> None:
    def work(number: int) -> bool:
        held = [pooled_empty((64, 64), torch.uint8).fill_(number) for _ in range(4)]
        return all(bool((tensor == number).all()) for tensor in held)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, [i % 250 for i in range(400)]))
        live = [pooled_empty((64, 64), torch.uint8) for _ in range(40)]
        assert len(set(map(block, live))) == len(live)


def test_nothing_can_be_lent() -> None:
    assert pooled_empty((0, 8, 8, 3), torch.uint8).numel() == 0
