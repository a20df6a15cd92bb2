"""Loops over one block of a tensor in all models, from what is stored to what is asked for.

They take the stored numbers, [M, T] of which the block is the N from ``offset`` on: those of the K
models, then those of the base; float32, or bfloat16 as its bits. Each loop widens a piece of them,
so no copy in float32 is ever made.

Legend: K models, M = K + 1 with the base, N elements of a block, S mask rows: 0, 1 for all or K,
P elements of a piece.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crucible_components.merging.kernels.compiled import Floats, compiled

Stored = NDArray[Any]
_PIECE = 1024
"""Elements that stay in the first cache between inner loops, each of which is one vector loop."""


@compiled()
def _widen(stored_MT: Stored, row: int, offset: int, piece: slice, values: Floats) -> None:
    stored = stored_MT[row, offset + piece.start : offset + piece.stop]
    if stored.itemsize == 2:
        bits = values.view(np.uint32)
        for i in range(stored.size):
            bits[i] = np.uint32(stored[i]) << np.uint32(16)
    else:
        for i in range(stored.size):
            values[i] = stored[i]


@compiled()
def _changes(
    stored_MT: Stored, offset: int, mask_SN: Floats, piece: slice, changes_MP: Floats
) -> None:
    """Of one piece: what each model changed of the base where the mask is 1; last, the base."""
    num_models, num_masks = len(stored_MT) - 1, len(mask_SN)
    base = changes_MP[num_models]
    _widen(stored_MT, num_models, offset, piece, base)
    for k in range(num_models):
        change = changes_MP[k]
        _widen(stored_MT, k, offset, piece, change)
        if num_masks:
            mask = mask_SN[k if num_masks > 1 else 0, piece]
            for i in range(mask.size):
                change[i] = (change[i] - base[i]) * mask[i]
        else:
            for i in range(change.size):
                change[i] -= base[i]


@compiled()
def all_finite(bits_MT: NDArray[np.uint16], offset: int, length: int) -> bool:
    """Of bfloat16 numbers."""
    exponent, num_bad = np.uint16(0x7F80), 0
    for m in range(len(bits_MT)):
        bits = bits_MT[m, offset : offset + length]
        for i in range(length):
            num_bad += (bits[i] & exponent) == exponent
    return num_bad == 0


@compiled()
def weighted_sum(stored_MT: Stored, offset: int, weights_M: Floats, out_N: Floats) -> None:
    """``Σ weights · stored``."""
    values = np.empty(_PIECE, np.float32)
    for start in range(0, out_N.size, _PIECE):
        piece = slice(start, min(start + _PIECE, out_N.size))
        out = out_N[piece]
        out[:] = np.float32(0)
        for m in range(len(stored_MT)):
            _widen(stored_MT, m, offset, piece, values)
            for i in range(out.size):
                out[i] += values[i] * weights_M[m]


@compiled()
def variance(stored_KT: Stored, offset: int, out_N: Floats) -> None:
    """Over the rows, in float64 until it is stored; exactly 0 where all are equal."""
    num_models = len(stored_KT)
    share = 1.0 / num_models
    mean, total = np.empty(_PIECE), np.empty(_PIECE)
    values_KP = np.empty((num_models, _PIECE), np.float32)
    for start in range(0, out_N.size, _PIECE):
        piece = slice(start, min(start + _PIECE, out_N.size))
        out, first = out_N[piece], values_KP[0]
        _widen(stored_KT, 0, offset, piece, first)
        mean[:] = 0.0
        for k in range(1, num_models):
            other = values_KP[k]
            _widen(stored_KT, k, offset, piece, other)
            for i in range(out.size):
                mean[i] += np.float64(other[i]) - np.float64(first[i])
        for i in range(out.size):
            mean[i] *= share
            total[i] = mean[i] * mean[i]
        for k in range(1, num_models):
            other = values_KP[k]
            for i in range(out.size):
                away = np.float64(other[i]) - np.float64(first[i]) - mean[i]
                total[i] += away * away
        for i in range(out.size):
            out[i] = total[i] * share


@compiled()
def sizes(stored_MT: Stored, offset: int, out_KN: Floats) -> None:
    """|δ|."""
    num_models, num_elements = out_KN.shape
    nothing = np.empty((0, 0), np.float32)
    changes_MP = np.empty((num_models + 1, _PIECE), np.float32)
    for start in range(0, num_elements, _PIECE):
        piece = slice(start, min(start + _PIECE, num_elements))
        _changes(stored_MT, offset, nothing, piece, changes_MP)
        for k in range(num_models):
            out, change = out_KN[k, piece], changes_MP[k]
            for i in range(out.size):
                out[i] = abs(change[i])


@compiled(fastmath={"reassoc"})
def energies(
    stored_MT: Stored, offset: int, num_elements: int, mask_SN: Floats
) -> NDArray[np.float64]:
    """``Σ δ²`` of each model over the mask, then ``Σ θ²`` of the base; in float64."""
    found_M = np.zeros(len(stored_MT))
    changes_MP = np.empty((len(stored_MT), _PIECE), np.float32)
    for start in range(0, num_elements, _PIECE):
        piece = slice(start, min(start + _PIECE, num_elements))
        length = piece.stop - piece.start
        _changes(stored_MT, offset, mask_SN, piece, changes_MP)
        for m in range(len(stored_MT)):
            total, values = 0.0, changes_MP[m]
            for i in range(length):
                total += np.float64(values[i]) * np.float64(values[i])
            found_M[m] += total
    return found_M


@compiled(fastmath={"reassoc"})
def norms(stored_MT: Stored, offset: int, mask_SN: Floats) -> NDArray[np.float64]:
    """``Σ |δ|`` of each model over all elements, then over the mask, [2, K] in float64."""
    num_models, num_elements = len(stored_MT) - 1, mask_SN.shape[1]
    found_2K, nothing = np.zeros((2, num_models)), mask_SN[:0]
    changes_MP = np.empty((num_models + 1, _PIECE), np.float32)
    for start in range(0, num_elements, _PIECE):
        piece = slice(start, min(start + _PIECE, num_elements))
        _changes(stored_MT, offset, nothing, piece, changes_MP)
        for k in range(num_models):
            mask, change = mask_SN[k if len(mask_SN) > 1 else 0, piece], changes_MP[k]
            before, after = 0.0, 0.0
            for i in range(mask.size):
                size = np.float64(abs(change[i]))
                before += size
                after += size * mask[i]
            found_2K[0, k] += before
            found_2K[1, k] += after
    return found_2K


@compiled()
def add_changes(
    stored_MT: Stored, offset: int, mask_SN: Floats, factors_K: Floats, change_N: Floats
) -> None:
    """``Σ factors · δ`` over the mask."""
    num_models = len(stored_MT) - 1
    changes_MP = np.empty((num_models + 1, _PIECE), np.float32)
    for start in range(0, change_N.size, _PIECE):
        piece = slice(start, min(start + _PIECE, change_N.size))
        total = change_N[piece]
        _changes(stored_MT, offset, mask_SN, piece, changes_MP)
        total[:] = np.float32(0)
        for k in range(num_models):
            change = changes_MP[k]
            for i in range(total.size):
                total[i] += change[i] * factors_K[k]


@compiled()
def add_majority(
    stored_MT: Stored, offset: int, mask_SN: Floats, rules_3K: Floats, sums_2N: Floats
) -> None:
    """Sums over the models that have the majority's sign, + where no side has it.

    Args:
        stored_MT: models and base.
        offset: of the block.
        mask_SN: which changes are there.
        rules_3K: votes, factors and weights. The majority's sign is that of ``Σ votes · δ``, summed
            in float64 so that it does not hang on the order of the models.
        sums_2N: gets ``Σ factors · votes · δ`` and ``Σ weights``.
    """
    zero, one, num_models = np.float32(0), np.float32(1), len(stored_MT) - 1
    votes_K, factors_K, weights_K = rules_3K[0], rules_3K[1], rules_3K[2]
    changes_MP = np.empty((num_models + 1, _PIECE), np.float32)
    total, sign = np.empty(_PIECE), np.empty(_PIECE, np.float32)
    for start in range(0, sums_2N.shape[1], _PIECE):
        piece = slice(start, min(start + _PIECE, sums_2N.shape[1]))
        change, weight = sums_2N[0, piece], sums_2N[1, piece]
        _changes(stored_MT, offset, mask_SN, piece, changes_MP)
        total[:] = 0.0
        for k in range(num_models):
            each = changes_MP[k]
            for i in range(change.size):
                each[i] *= votes_K[k]
                total[i] += each[i]
        for i in range(change.size):
            sign[i] = one if total[i] >= 0 else -one
        change[:], weight[:] = zero, zero
        for k in range(num_models):
            each = changes_MP[k]
            for i in range(change.size):
                agreeing = max(each[i] * sign[i], zero)
                change[i] += agreeing * factors_K[k]
                weight[i] += weights_K[k] if agreeing > 0 else zero
        for i in range(change.size):
            change[i] *= sign[i]


@compiled()
def take_agreed(stored_MT: Stored, offset: int, merged_N: Floats) -> None:
    """Overwrite ``merged_N`` with what is stored where that is the same to the bit in all rows."""
    values = np.empty(_PIECE, np.float32)
    differ, other = np.empty(_PIECE, np.uint32), np.empty(_PIECE, np.float32)
    for start in range(0, merged_N.size, _PIECE):
        piece = slice(start, min(start + _PIECE, merged_N.size))
        merged = merged_N[piece]
        _widen(stored_MT, 0, offset, piece, values)
        differ[:] = 0
        for m in range(1, len(stored_MT)):
            _widen(stored_MT, m, offset, piece, other)
            bits, expected = other.view(np.uint32), values.view(np.uint32)
            for i in range(merged.size):
                differ[i] |= bits[i] ^ expected[i]
        for i in range(merged.size):
            merged[i] = values[i] if differ[i] == 0 else merged[i]


@compiled(fastmath={"reassoc"})
def change_sums(
    stored_MT: Stored,
    offset: int,
    has_base: bool,
    merged_1N: Stored,
    products_CC: NDArray[np.float64],
) -> tuple[float, int, int]:
    """Sums over the changes of the K models and the merged one from their origin.

    Args:
        stored_MT: models and base.
        offset: of the block.
        has_base: else all rows are models, and their mean is the origin.
        merged_1N: what was made of them, stored likewise.
        products_CC: gets the scalar products of the C = K + 1 changes; each is float32 over a
            piece, float64 over the pieces.

    Returns:
        The squared norm of the origin, the number of elements that some models raise and others
        lower, and of those that the merged one changes.
    """
    num_models = len(stored_MT) - 1 if has_base else len(stored_MT)
    origin = np.empty(_PIECE, np.float32)
    changes_CP = np.empty((num_models + 1, _PIECE), np.float32)
    products_CC[:] = 0.0
    energy, num_conflicts, num_changed = 0.0, 0, 0
    for start in range(0, merged_1N.shape[1], _PIECE):
        piece = slice(start, min(start + _PIECE, merged_1N.shape[1]))
        length = piece.stop - piece.start
        for k in range(num_models):
            _widen(stored_MT, k, offset, piece, changes_CP[k])
        _widen(merged_1N, 0, 0, piece, changes_CP[num_models])
        if has_base:
            _widen(stored_MT, num_models, offset, piece, origin)
        else:
            _mean(changes_CP[:num_models], origin)
        for c in range(num_models + 1):
            change = changes_CP[c]
            for i in range(length):
                change[i] -= origin[i]
        for first in range(num_models + 1):
            for second in range(first + 1):
                products_CC[first, second] += _dot(changes_CP[first], changes_CP[second], length)
                products_CC[second, first] = products_CC[first, second]
        energy += _dot(origin, origin, length)
        num_conflicts += _count_conflicts(changes_CP[:num_models], length)
        merged = changes_CP[num_models]
        for i in range(length):
            num_changed += merged[i] != 0
    return energy, num_conflicts, num_changed


@compiled()
def _mean(values_KP: Floats, mean: Floats) -> None:
    total = np.zeros(mean.size)
    for k in range(len(values_KP)):
        values = values_KP[k]
        for i in range(mean.size):
            total[i] += values[i]
    for i in range(mean.size):
        mean[i] = total[i] / len(values_KP)


@compiled(fastmath={"reassoc"})
def _dot(first: Floats, second: Floats, length: int) -> float:
    total = np.float32(0)
    for i in range(length):
        total += first[i] * second[i]
    return total  # type: ignore[return-value]


@compiled()
def _count_conflicts(changes_KP: Floats, length: int) -> int:
    """Elements with changes of both signs."""
    signs, num_conflicts = np.zeros(_PIECE, np.uint8), 0
    for k in range(len(changes_KP)):
        change = changes_KP[k]
        for i in range(length):
            signs[i] |= np.uint8(change[i] > 0) | np.uint8(change[i] < 0) << np.uint8(1)
    for i in range(length):
        num_conflicts += signs[i] == 3
    return num_conflicts
