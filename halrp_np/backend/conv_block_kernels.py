"""The loops of conv_block.py, which says how they hang together."""

from __future__ import annotations

import numpy as np
from numba import prange

from .direct_conv import add_window
from .jit import compiled
from .simd import LANES, OUTPUTS, PIXELS, pixel_block_of, store_pixels, zero_block
from .simd_pointwise import (
    add,
    filled,
    load_one,
    load_outputs,
    load_some,
    multiply,
    multiply_add,
    pick,
    positive,
    rectified,
    spread,
    spread_outputs,
    store,
    store_positions,
    store_some,
    subtract,
    where_position,
)

_zero_outputs, _zero_one = zero_block(OUTPUTS), zero_block(1)


# ---- forward in train mode ------------------------------------------------------------------------------------------


@compiled()
def _pixels(x, image, w, w_at, kernel, bias, o, u, v, geometry):  # type: ignore[no-untyped-def]
    """z of the PIXELS columns from v on in row u, for OUTPUTS channels from `o` on."""
    start, line, plane, channels = image
    stride, low, high = geometry
    inside = (max(0, low - u * stride), min(kernel[0], high - u * stride))
    pixel = start + u * stride * line + v * stride * LANES
    return add_window(pixel_block_of(bias, o), x, pixel, plane, line, inside, w, w_at, kernel, channels, stride)


@compiled()
def _convolve_band(x, image, w, w_at, kernel, bias, o, z, at, extent, geometry):  # type: ignore[no-untyped-def]
    """Write rows first .. last-1 of z for OUTPUTS channels from `o` on; z's row `first` starts at `at`."""
    first, last, pitch, columns, step = extent
    for u in range(first, last):
        for v in range(0, columns, PIXELS):
            block = _pixels(x, image, w, w_at, kernel, bias, o, u, v, geometry)
            store_pixels(block, z, at + ((u - first) * pitch + v) * LANES, LANES, step)


@compiled()
def _pool_band(z, at, pitch, step, pool, signs, o, peaks, positions, to, columns, peak_step):  # type: ignore[no-untyped-def]
    """The first entry of every window for which sign(γ) z is largest, and its position."""
    sign = spread_outputs(signs, o)
    for v in range(columns):
        first = at + v * pool * LANES
        peak = load_outputs(z, first, step)
        best, position = multiply(peak, sign), _zero_outputs()
        for i in range(pool):
            for j in range(pool):  # the first entry does not beat itself
                entry = load_outputs(z, first + (i * pitch + j) * LANES, step)
                key = multiply(entry, sign)
                position = pick(key, best, filled(position, np.float32(i * pool + j)), position)
                peak = pick(key, best, entry, peak)
                best = pick(key, best, key, best)
        store(peak, peaks, to + v * LANES, peak_step)
        store_positions(position, positions, to + v * LANES, peak_step)


@compiled()
def _band_moments(z, at, extent, step, lanes, scratch, outputs, moments):  # type: ignore[no-untyped-def]
    """moments[k] = mean and sum of squared deviations of a band of channel k, over the lanes that are images.

    The float32 mean of a lane is off by its rounding; the deviations from it, small numbers, say by how much.
    """
    rows, columns, pitch = extent
    total = _zero_outputs()
    for u in range(rows):
        for v in range(columns):
            total = add(total, load_outputs(z, at + (u * pitch + v) * LANES, step))
    mean = multiply(total, filled(total, np.float32(1.0 / (rows * columns))))
    squares, rest = _zero_outputs(), _zero_outputs()
    for u in range(rows):
        for v in range(columns):
            deviation = subtract(load_outputs(z, at + (u * pitch + v) * LANES, step), mean)
            squares = multiply_add(deviation, deviation, squares)
            rest = add(rest, deviation)
    store(mean, scratch, 0, LANES)
    store(squares, scratch, OUTPUTS * LANES, LANES)
    store(rest, scratch, 2 * OUTPUTS * LANES, LANES)
    count = rows * columns
    for k in range(outputs):
        own, off = scratch[k * LANES :], scratch[(OUTPUTS + k) * LANES :]
        left = scratch[(2 * OUTPUTS + k) * LANES :]
        centre = 0.0
        for lane in range(lanes):
            centre += np.float64(own[lane]) + np.float64(left[lane]) / count
        centre /= lanes
        around = 0.0
        for lane in range(lanes):
            shift = np.float64(left[lane]) / count
            difference = np.float64(own[lane]) + shift - centre
            around += np.float64(off[lane]) - count * shift * shift + count * difference * difference
        moments[k, 0], moments[k, 1] = centre, around


@compiled(parallel=True)
def forward(x, image, w, kernel, bias, signs, z, extent, geometry, pool, peaks, positions, moments):  # type: ignore[no-untyped-def]
    """z, its windows' maxima and each band's moments (slices bands, O, 2); without w, z is there already."""
    channels, height, width = image
    outputs, planes, rows, columns, pitch, batch = extent
    bands, depth = (rows + pool - 1) // pool, channels * kernel[0] * kernel[1]
    line, plane, step = width * LANES, height * width * LANES, rows * pitch * LANES
    peak_rows, peak_columns = rows // pool, columns // pool
    for task in prange(((batch + LANES - 1) // LANES) * bands):
        s, band = task // bands, task % bands
        scratch = np.empty(3 * OUTPUTS * LANES, dtype=np.float32)
        first, last, lanes = band * pool, min(rows, (band + 1) * pool), min(LANES, batch - s * LANES)
        for o in range(0, outputs, OUTPUTS):
            at = (((s * planes + o) * rows + first) * pitch) * LANES
            if w.size:
                begin = (s * channels * plane, line, plane, channels)
                _convolve_band(
                    x, begin, w, o * depth, kernel, bias, o, z, at, (first, last, pitch, columns, step), geometry
                )
            if pool > 1 and band < peak_rows:
                to = (((s * planes + o) * peak_rows + band) * peak_columns) * LANES
                peak_step = peak_rows * peak_columns * LANES
                _pool_band(z, at, pitch, step, pool, signs, o, peaks, positions, to, peak_columns, peak_step)
            if moments.size:
                own = moments[task, o : min(outputs, o + OUTPUTS)]
                _band_moments(z, at, (last - first, columns, pitch), step, lanes, scratch, len(own), own)


@compiled()
def _band_size(task, bands, pool, rows, columns, batch):  # type: ignore[no-untyped-def]
    """How many values a channel has in the band of a task."""
    s, band = task // bands, task % bands
    return min(LANES, batch - s * LANES) * (min(rows, (band + 1) * pool) - band * pool) * columns


@compiled()
def combine(moments, pool, rows, columns, batch, mean, var):  # type: ignore[no-untyped-def]
    """Mean and biased variance of every channel from those of its bands, which differ in size."""
    bands, count = (rows + pool - 1) // pool, rows * columns * batch
    for o in range(mean.size):
        total = 0.0
        for task in range(moments.shape[0]):
            total += moments[task, o, 0] * _band_size(task, bands, pool, rows, columns, batch)
        mean[o] = total / count
        total = 0.0
        for task in range(moments.shape[0]):
            difference = moments[task, o, 0] - mean[o]
            size = _band_size(task, bands, pool, rows, columns, batch)
            total += moments[task, o, 1] + size * difference * difference
        var[o] = total / count


@compiled()
def _own_factors(factors, o):  # type: ignore[no-untyped-def]
    """Mean, its rest, scale and β of a channel in every lane: y = ((z - mean) - rest) scale + β."""
    return spread(factors[0, o]), spread(factors[1, o]), spread(factors[2, o]), spread(factors[3, o])


@compiled()
def _deviation(value, own):  # type: ignore[no-untyped-def]
    """value - mean, for a mean in two parts: what its rounding left over is the second."""
    return subtract(subtract(value, own[0]), own[1])


@compiled(parallel=True)
def normalise(peaks, layout, factors, rectify, y):  # type: ignore[no-untyped-def]
    """y = (peak - mean) scale + β, rectified or not; one row of y a task.

    Shapes: y (O, rows, columns, N), flat; peaks [slice][planes][height][pitch][LANES].
    """
    outputs, rows, columns, batch, planes, height, pitch = layout
    for task in prange(outputs * rows):
        o, u = task // rows, task % rows
        own = _own_factors(factors, o)
        for v in range(columns):
            to = (task * columns + v) * batch
            for s in range((batch + LANES - 1) // LANES):
                peak = load_one(peaks, (((s * planes + o) * height + u) * pitch + v) * LANES)
                value = multiply_add(_deviation(peak, own), own[2], own[3])
                if rectify:
                    value = rectified(value)
                store_some(value, y, to + s * LANES, LANES, min(LANES, batch - s * LANES))


# ---- backward -------------------------------------------------------------------------------------------------------


@compiled()
def _slope(gy, at, lanes, peak, own, rectify):  # type: ignore[no-untyped-def]
    """The gradient at a peak's normalised value: gy where y is positive; NaN stays NaN."""
    g = load_some(gy, at, lanes)
    if rectify:
        value = multiply_add(_deviation(peak, own), own[2], own[3])
        g = multiply(g, positive(value))
    return g


@compiled(parallel=True)
def gradient_sums(gy, layout, peaks, factors, rectify, sums):  # type: ignore[no-untyped-def]
    """sums[:, o] = Σ g and Σ g (z - mean) over the peaks; float32 within a row of windows, float64 beyond."""
    outputs, rows, columns, batch, planes, height, pitch = layout
    for o in prange(outputs):
        own, scratch = _own_factors(factors, o), np.empty(2 * LANES, dtype=np.float32)
        total, along = 0.0, 0.0
        for u in range(rows):
            sum_, product = _zero_one(), _zero_one()
            for v in range(columns):
                source = ((o * rows + u) * columns + v) * batch
                for s in range((batch + LANES - 1) // LANES):
                    peak = load_one(peaks, (((s * planes + o) * height + u) * pitch + v) * LANES)
                    g = _slope(gy, source + s * LANES, min(LANES, batch - s * LANES), peak, own, rectify)
                    sum_ = add(sum_, g)
                    product = multiply_add(g, _deviation(peak, own), product)
            store(sum_, scratch, 0, LANES)
            store(product, scratch, LANES, LANES)
            for lane in range(LANES):
                total += np.float64(scratch[lane])
                along += np.float64(scratch[LANES + lane])
        sums[0, o], sums[1, o] = total, along


@compiled()
def _clear(data, at, count):  # type: ignore[no-untyped-def]
    """Zeros in `count` vectors."""
    for k in range(count):
        store(_zero_one(), data, at + k * LANES, LANES)


@compiled(parallel=True)
def form_gradient(gy, layout, z, extent, peaks, positions, factors, pool, rectify, gz, target):  # type: ignore[no-untyped-def]
    """gz = scale g + slope (z - mean) + level; factors are those of y, slope and level; one plane a task."""
    outputs, rows, columns, batch, planes, height, pitch = layout
    slices, z_rows, z_columns, z_pitch = extent
    left, gz_pitch = target
    for task in prange(slices * planes):
        o, s = task // slices, task % slices  # the slices of a channel in turn: gy's row of the batch holds them all
        plane = s * planes + o
        to, at = plane * z_rows * gz_pitch * LANES, plane * z_rows * z_pitch * LANES
        for u in range(z_rows):
            border = z_columns if o < outputs else 0
            _clear(gz, to + u * gz_pitch * LANES, left)
            _clear(gz, to + (u * gz_pitch + left + border) * LANES, gz_pitch - left - border)
        if o >= outputs:
            continue
        own, slope, level = _own_factors(factors, o), spread(factors[4, o]), spread(factors[5, o])
        lanes = min(LANES, batch - s * LANES)
        for u in range(rows):
            for v in range(columns):
                place = ((plane * height + u) * pitch + v) * LANES
                peak = load_one(peaks, place)
                source = ((o * rows + u) * columns + v) * batch + s * LANES
                g = multiply(_slope(gy, source, lanes, peak, own, rectify), own[2])
                if pool == 1:
                    value = add(multiply_add(slope, _deviation(peak, own), level), g)
                    store(value, gz, to + (u * gz_pitch + left + v) * LANES, LANES)
                    continue
                for i in range(pool):
                    for j in range(pool):
                        row, column = u * pool + i, v * pool + j
                        entry = load_one(z, at + (row * z_pitch + column) * LANES)
                        value = multiply_add(slope, _deviation(entry, own), level)
                        value = add(value, where_position(positions, place, i * pool + j, g))
                        store(value, gz, to + (row * gz_pitch + left + column) * LANES, LANES)
        for i in range(z_rows):  # pixels in no window
            for j in range(columns * pool if i < rows * pool else 0, z_columns):
                entry = load_one(z, at + (i * z_pitch + j) * LANES)
                value = multiply_add(slope, _deviation(entry, own), level)
                store(value, gz, to + (i * gz_pitch + left + j) * LANES, LANES)


# ---- evaluation -----------------------------------------------------------------------------------------------------


@compiled()
def _largest(z, at, pool, row, step):  # type: ignore[no-untyped-def]
    """The largest entry of a window of OUTPUTS channels."""
    best = load_outputs(z, at, step)
    for i in range(pool):
        for j in range(pool):
            entry = load_outputs(z, at + i * row + j * LANES, step)
            best = pick(entry, best, entry, best)
    return best


@compiled(parallel=True)
def apply(x, image, w, kernel, bias, extent, geometry, pool, rectify, y):  # type: ignore[no-untyped-def]
    """y (O, rows, columns, N), flat: PIXELS windows of OUTPUTS channels at a time, z only in a scratch of that size.

    Without pooling whole blocks go from the registers to y.
    """
    channels, height, width = image
    outputs, rows, columns, z_columns, batch = extent
    line, plane, depth = width * LANES, height * width * LANES, channels * kernel[0] * kernel[1]
    row = pool * PIXELS * LANES
    for task in prange(((batch + LANES - 1) // LANES) * rows):
        s, u = task // rows, task % rows
        z, corner = np.empty(OUTPUTS * pool * row, dtype=np.float32), np.empty(OUTPUTS * LANES, dtype=np.float32)
        begin, lanes = (s * channels * plane, line, plane, channels), min(LANES, batch - s * LANES)
        for o in range(0, outputs, OUTPUTS):
            for v in range(0, columns, PIXELS):
                to = ((o * rows + u) * columns + v) * batch + s * LANES
                if pool == 1 and o + OUTPUTS <= outputs and v + PIXELS <= columns and lanes == LANES:
                    block = _pixels(x, begin, w, o * depth, kernel, bias, o, u, v, geometry)
                    if rectify:
                        block = rectified(block)
                    store_pixels(block, y, to, batch, rows * columns * batch)
                    continue
                first = (begin[0] + v * pool * geometry[0] * LANES, line, plane, channels)
                wide = min(pool * PIXELS, z_columns - v * pool)
                rows_of = (u * pool, (u + 1) * pool, pool * PIXELS, wide, pool * row)
                _convolve_band(x, first, w, o * depth, kernel, bias, o, z, 0, rows_of, geometry)
                for p in range(min(PIXELS, columns - v)):
                    best = _largest(z, p * pool * LANES, pool, row, pool * row)
                    if rectify:
                        best = rectified(best)
                    if p:
                        to += batch
                    if o + OUTPUTS <= outputs:
                        store_some(best, y, to, rows * columns * batch, lanes)
                        continue
                    store(best, corner, 0, LANES)
                    for k in range(outputs - o):
                        store_some(load_one(corner, k * LANES), y, to + k * rows * columns * batch, LANES, lanes)
