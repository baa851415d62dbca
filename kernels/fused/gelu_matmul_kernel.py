"""A persistent, warp-specialized matmul for Hopper whose epilogue computes GELU or multiplies by its gradient.

A thread block keeps one strip of 256 columns and takes every so many rows of tiles, so its columns' sums stay in
registers. One warp loads by TMA, two warpgroups multiply 64 rows of a tile each, and the epilogue's warps work on the
tile before. What they hand over is half a tile, in shared memory and 16 bits. TMA leaves out what lies past the last
row, and reads zeros there. The epilogue stores what it computes from its registers: another way through shared memory
would take longer than the arithmetic does.

In fp8, no thread block has a whole row of the result, so its scale is not from its largest value but from a bound that
is known before: no element exceeds the norm of the row that goes in times the largest norm of a row of the weight. That
is some 50 times the result's standard deviation, so four or five of e4m3's 17 binades stay empty. Scales are powers of
two: from a three-hundredth of the deviation on, e4m3 rounds to the same numbers whatever the scale.

GELU is x Phi(x) with Phi(x) = 1 / (1 + 2^-(x p(x^2))): one exponential and one reciprocal, for the gradient too. In the
tanh form p is a line. In the exact form it is a minimax fit, with which GELU is off by 3e-6 at most and its gradient by
1.5e-5. Each is a hundredth of the 16 bits' rounding; arithmetic bounds this epilogue, and more of it costs time.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.fused.fp8 import E4M3_MAX, SMALLEST_SCALE

TILE_ROWS = gl.constexpr(128)
HALF_ROWS = gl.constexpr(64)  # what a warpgroup multiplies
TILE_COLUMNS = gl.constexpr(256)

# Exponents of 2, with minus and log2(e) in them.
TANH_0 = gl.constexpr(-2.302208198144325)  # sqrt(8 / pi)
TANH_1 = gl.constexpr(-0.1029432395800235)  # by 0.044715
SLOPE_0 = gl.constexpr(1.5957691216057308)
SLOPE_1 = gl.constexpr(0.21406444881780073)
LARGEST_SQUARE = gl.constexpr(256.0)  # Phi is 0 or 1 by then; times a slope of infinity it would be no number
FIT_0 = gl.constexpr(-2.302045425)
FIT_1 = gl.constexpr(-0.1052266611)
FIT_2 = gl.constexpr(3.602746618e-4)
FIT_3 = gl.constexpr(8.823811567e-5)
FIT_4 = gl.constexpr(-3.228987116e-6)  # negative, so that the exponent of a large x stays on the right side
MARGIN = gl.constexpr(1.28)  # GELU's largest slope, 1.13, and what rounding to e4m3 may add to both factors' norms
HALF_LOG2_E = gl.constexpr(0.7213475204444817)
LOG2_DENSITY_AT_0 = gl.constexpr(-1.3257480647361593)


@gluon.jit
def _exp2(x):
    """2^x without the compiler's care for subnormal numbers, which is three instructions."""
    return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, is_pure=True, pack=1)


@gluon.jit
def _reciprocal(x):
    return gl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, is_pure=True, pack=1)


@gluon.jit
def _phi(x, square, by_tanh: gl.constexpr):
    if by_tanh:
        series = TANH_0 + TANH_1 * square
    else:
        series = FIT_0 + square * (FIT_1 + square * (FIT_2 + square * (FIT_3 + square * FIT_4)))
    return _reciprocal(1.0 + _exp2(x * series))


@gluon.jit
def _gelu(x, by_tanh: gl.constexpr):
    return x * _phi(x, x * x, by_tanh)


@gluon.jit
def _gelu_slope(x, by_tanh: gl.constexpr):
    """GELU's derivative: Phi plus x times the density, which is Phi (1 - Phi) (x p(x^2))' in the tanh form."""
    square = x * x
    phi = _phi(x, square, by_tanh)
    if by_tanh:
        density = (phi - phi * phi) * (SLOPE_0 + SLOPE_1 * gl.minimum(square, LARGEST_SQUARE))
    else:
        density = _exp2(square * -HALF_LOG2_E + LOG2_DENSITY_AT_0)
    return phi + x * density


@gluon.jit
def _load(a_desc, b_desc, a_ring, b_ring, full, empty, n_m, n_n, n_k, b_is_transposed: gl.constexpr):
    stages: gl.constexpr = a_ring.shape[0]
    depth: gl.constexpr = a_desc.block_shape[1]
    column = gl.program_id(0) % n_n * TILE_COLUMNS
    step = 0
    for m in range(gl.program_id(0) // n_n, n_m, gl.num_programs(0) // n_n):
        for k in range(n_k):
            stage = step % stages
            mbarrier.wait(empty.index(stage), step // stages & 1 ^ 1)
            mbarrier.expect(full.index(stage), a_desc.block_type.nbytes + b_desc.block_type.nbytes)
            a, b = a_ring.index(stage), b_ring.index(stage)
            tma.async_copy_global_to_shared(a_desc, [m * TILE_ROWS, k * depth], full.index(stage), a)
            if b_is_transposed:
                tma.async_copy_global_to_shared(b_desc, [column, k * depth], full.index(stage), b)
            else:
                tma.async_copy_global_to_shared(b_desc, [k * depth, column], full.index(stage), b)
            step += 1


@gluon.jit
def _power_of_two(value):
    """The smallest that is not below these values, fp32 and not negative."""
    bits = gl.maximum(value, SMALLEST_SCALE).to(gl.int32, bitcast=True)
    return ((bits + 0x7FFFFF) & 0x7F800000).to(gl.float32, bitcast=True)


@gluon.jit
def _inverse(scale):
    """1 / scale of powers of two, exactly: the exponent, of bias 127, with its sign changed."""
    return (0x7F000000 - scale.to(gl.int32, bitcast=True)).to(gl.float32, bitcast=True)


@gluon.jit
def _multiply(
    matrices,
    barriers,
    sizes,
    bias_ptr,
    factors,
    fp8,
    half: gl.constexpr,
    b_is_transposed: gl.constexpr,
    in_fp8: gl.constexpr,
):
    """Hands over half a tile's sums; in fp8 the inverses of its rows' scales too, and one strip stores the scales."""
    a_ring, b_ring, handed, inverses = matrices
    full, empty, ready, free = barriers
    n_t, n_m, n_n, n_k = sizes
    stages: gl.constexpr = a_ring.shape[0]
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 256 // a_ring.dtype.primitive_bitwidth]
    )
    strip = gl.program_id(0) % n_n
    columns = strip * TILE_COLUMNS + gl.arange(0, TILE_COLUMNS, gl.SliceLayout(0, layout))
    half_rows = half * HALF_ROWS + gl.arange(0, HALF_ROWS, gl.SliceLayout(1, layout))
    if in_fp8:
        weight_scale = gl.load(factors[2])
        reach = MARGIN / E4M3_MAX * gl.load(factors[3])
        bias_scale = MARGIN / E4M3_MAX * gl.load(factors[4]) if bias_ptr is not None else 0.0
        largest = gl.zeros([HALF_ROWS], gl.float32, gl.SliceLayout(1, layout))
    step = 0
    phase = 0
    for m in range(gl.program_id(0) // n_n, n_m, gl.num_programs(0) // n_n):
        rows = m * TILE_ROWS + half_rows
        if in_fp8:
            row_scale = gl.load(factors[0] + rows, rows < n_t, 0.0)
            row_norm = gl.load(factors[1] + rows, rows < n_t, 0.0)
        # The bias comes first or last, whichever the registers have room for.
        starts_with_bias: gl.constexpr = bias_ptr is not None and not in_fp8
        sums = gl.zeros([HALF_ROWS, TILE_COLUMNS], gl.float32, layout)
        if starts_with_bias:
            sums += gl.load(bias_ptr + columns).to(gl.float32)[None, :]
        for k in range(n_k):
            stage = step % stages
            mbarrier.wait(full.index(stage), step // stages & 1)
            a = a_ring.index(stage).slice(half * HALF_ROWS, HALF_ROWS, dim=0)
            b = b_ring.index(stage)
            if b_is_transposed:
                b = b.permute((1, 0))
            sums = warpgroup_mma(a, b, sums, use_acc=starts_with_bias or k > 0, is_async=True)
            sums = warpgroup_mma_wait(1, deps=[sums])
            mbarrier.arrive(empty.index((step + stages - 1) % stages), pred=k > 0)
            step += 1
        sums = warpgroup_mma_wait(0, deps=[sums])
        mbarrier.arrive(empty.index((step + stages - 1) % stages))
        if in_fp8:
            sums *= (row_scale * weight_scale)[:, None]
            if bias_ptr is not None:
                sums += gl.load(bias_ptr + columns).to(gl.float32)[None, :]
        mbarrier.wait(free.index(half), phase ^ 1)
        handed.index(half).store(sums.to(handed.dtype))
        if in_fp8:
            scale = _power_of_two(row_norm * reach + bias_scale)
            inverses.index(half).store(_inverse(scale))
            gl.store(fp8[1] + rows, scale, (rows < n_t) & (strip == 0))
            largest = gl.maximum(largest, scale)  # past the last row it is no larger than in it
        fence_async_shared()
        mbarrier.arrive(ready.index(half))
        phase ^= 1
    if in_fp8 and len(fp8) == 4:
        gl.atomic_max(fp8[3], gl.max(largest, 0), strip == 0, sem="relaxed")


@gluon.jit
def _store(result, places, inside, out_ptr, fp8, inverses):
    """Stores a part in 16 bits and in fp8, each where it is wanted."""
    if out_ptr is not None:
        gl.store(out_ptr + places, result.to(out_ptr.dtype.element_ty), inside)
    if fp8 is not None:
        inverse = inverses.load(gl.SliceLayout(1, result.type.layout))
        gl.store(fp8[0] + places, (result * inverse[:, None]).to(gl.float8e4nv), inside)


@gluon.jit
def _activate(
    handed,
    inverses,
    ready,
    free,
    inner_desc,
    out_ptr,
    fp8,
    n_t,
    n_m,
    n_n,
    by_tanh: gl.constexpr,
    rows: gl.constexpr,
):
    """Stores the matmul's result, and GELU of what was rounded, as the backward pass reads it."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [gl.num_warps(), 1], [1, 0])
    column = gl.program_id(0) % n_n * TILE_COLUMNS
    columns = column + gl.arange(0, TILE_COLUMNS, gl.SliceLayout(0, layout))
    part_rows = gl.arange(0, rows, gl.SliceLayout(1, layout))
    width = n_n * TILE_COLUMNS
    offsets = part_rows[:, None] * width + columns[None, :]
    phase = 0
    for m in range(gl.program_id(0) // n_n, n_m, gl.num_programs(0) // n_n):
        for half in gl.static_range(2):
            row = m * TILE_ROWS + half * HALF_ROWS
            mbarrier.wait(ready.index(half), phase)
            block = handed.index(half)
            tma.async_copy_shared_to_global(inner_desc, [row, column], block)
            for i in gl.static_range(HALF_ROWS // rows):
                place = row + i * rows
                result = _gelu(block.slice(i * rows, rows, dim=0).load(layout).to(gl.float32), by_tanh)
                inside = part_rows[:, None] < n_t - place
                places = gl.cast(place, gl.int64) * width + offsets
                _store(result, places, inside, out_ptr, fp8, inverses.index(half).slice(i * rows, rows, dim=0))
            tma.store_wait(0)
            mbarrier.arrive(free.index(half))
        phase ^= 1


@gluon.jit
def _differentiate(
    handed,
    inverses,
    ready,
    free,
    inner_ptr,
    out_ptr,
    fp8,
    partial_ptr,
    n_t,
    n_m,
    n_n,
    by_tanh: gl.constexpr,
    rows: gl.constexpr,
):
    """Multiplies by GELU's derivative at `inner`, and leaves the sums of columns, a row of them for each warp.

    The next part of `inner` is under way while one is worked on. Two would not fit into the registers.
    """
    parts: gl.constexpr = HALF_ROWS // rows
    warps: gl.constexpr = gl.num_warps()
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [warps, 1], [1, 0])
    column = gl.program_id(0) % n_n * TILE_COLUMNS
    columns = column + gl.arange(0, TILE_COLUMNS, gl.SliceLayout(0, layout))
    part_rows = gl.arange(0, rows, gl.SliceLayout(1, layout))
    width = n_n * TILE_COLUMNS
    offsets = part_rows[:, None] * width + columns[None, :]
    first = gl.program_id(0) // n_n
    stride = gl.num_programs(0) // n_n
    n_halves = (n_m - first + stride - 1) // stride * 2
    sums = gl.zeros([warps, TILE_COLUMNS], gl.float32, layout)
    row = first * TILE_ROWS
    inside = part_rows[:, None] < n_t - row
    inner = gl.load(inner_ptr + gl.cast(row, gl.int64) * width + offsets, inside, 0.0)
    for step in range(n_halves):
        half = step & 1
        next_row = (first + (step + 1) // 2 * stride) * TILE_ROWS + (1 - half) * HALF_ROWS
        mbarrier.wait(ready.index(half), step // 2 & 1)
        for i in gl.static_range(parts):
            place = row + i * rows
            slope = inner.to(gl.float32)
            next_place = place + rows if i + 1 < parts else next_row
            next_inside = part_rows[:, None] < n_t - next_place
            inner = gl.load(inner_ptr + gl.cast(next_place, gl.int64) * width + offsets, next_inside, 0.0)
            slope = _gelu_slope(slope, by_tanh)
            gradient = handed.index(half).slice(i * rows, rows, dim=0).load(layout).to(gl.float32) * slope
            places = gl.cast(place, gl.int64) * width + offsets
            _store(gradient, places, inside, out_ptr, fp8, inverses.index(half).slice(i * rows, rows, dim=0))
            of_warps = gl.sum(gradient.reshape([rows // warps, warps, TILE_COLUMNS]), 0)
            sums += gl.convert_layout(of_warps, layout, assert_trivial=True)
            inside = next_inside
        mbarrier.arrive(free.index(half))
        row = next_row
    row = first * warps + gl.arange(0, warps, gl.SliceLayout(1, layout))
    gl.store(partial_ptr + row[:, None] * width + columns[None, :], sums)


@gluon.jit(do_not_specialize=("n_t", "n_m", "n_n", "n_k"))  # it is compiled once, for any number of tokens
def gelu_matmul(
    a_desc,
    b_desc,
    inner_desc,
    inner_ptr,
    out_ptr,
    factors,
    fp8,
    bias_ptr,
    partial_ptr,
    n_t,
    n_m,
    n_n,
    n_k,
    by_tanh: gl.constexpr,
    is_forward: gl.constexpr,
    in_fp8: gl.constexpr,
    stages: gl.constexpr,
    rows: gl.constexpr,
    warps: gl.constexpr,
    multiplier_registers: gl.constexpr,
    epilogue_registers: gl.constexpr,
    loader_registers: gl.constexpr,
    num_warps: gl.constexpr,
):
    """A (M, K) times B, with GELU forward, and multiplied by its derivative backward.

    Args:
        b_desc: (N, K), but backward in 16 bits (K, N).
        inner_desc, inner_ptr: what forward stores, and backward reads.
        out_ptr: for the result in 16 bits, or None.
        factors: in fp8, the rows' scales and norms, the weight's scale and its rows' largest norm, and forward the
            largest of the bias.
        fp8: in fp8, `Rows.pointers` for the result.
        bias_ptr: forward, (N,).
        partial_ptr: backward, room for sums.
    """
    b_is_transposed: gl.constexpr = is_forward or in_fp8
    dtype: gl.constexpr = a_desc.dtype
    a_ring = gl.allocate_shared_memory(dtype, [stages, TILE_ROWS, a_desc.block_shape[1]], a_desc.layout)
    b_ring = gl.allocate_shared_memory(dtype, [stages, b_desc.block_shape[0], b_desc.block_shape[1]], b_desc.layout)
    handed = gl.allocate_shared_memory(inner_desc.dtype, [2, HALF_ROWS, TILE_COLUMNS], inner_desc.layout)
    inverses = gl.allocate_shared_memory(gl.float32, [2, HALF_ROWS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    full = gl.allocate_shared_memory(gl.int64, [stages, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [stages, 1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(stages):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=2)
    for i in gl.static_range(2):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(free.index(i), count=1)
    fence_async_shared()
    matrices = (a_ring, b_ring, handed, inverses)
    barriers = (full, empty, ready, free)
    sizes = (n_t, n_m, n_n, n_k)
    gl.warp_specialize(
        [
            (_multiply, (matrices, barriers, sizes, bias_ptr, factors, fp8, 0, b_is_transposed, in_fp8)),
            (_multiply, (matrices, barriers, sizes, bias_ptr, factors, fp8, 1, b_is_transposed, in_fp8)),
            (_activate, (handed, inverses, ready, free, inner_desc, out_ptr, fp8, n_t, n_m, n_n, by_tanh, rows))
            if is_forward
            else (
                _differentiate,
                (handed, inverses, ready, free, inner_ptr, out_ptr, fp8, partial_ptr, n_t, n_m, n_n, by_tanh, rows),
            ),
            (_load, (a_desc, b_desc, a_ring, b_ring, full, empty, n_m, n_n, n_k, b_is_transposed)),
        ],
        [4, warps, 1],
        [multiplier_registers, epilogue_registers, loader_registers],
    )
