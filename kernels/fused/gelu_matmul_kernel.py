"""A persistent, warp-specialized matmul for Hopper whose epilogue computes GELU or multiplies by its gradient.

A thread block keeps one strip of 256 columns and takes every so many rows of tiles, so its columns' sums stay in
registers. One warp loads by TMA, two warpgroups multiply 64 rows of a tile each, and the epilogue's warps work on the
tile before. What they hand over is half a tile, in shared memory and 16 bits. TMA leaves out what lies past the last
row, and reads zeros there.

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
def _multiply(
    a_ring,
    b_ring,
    handed,
    full,
    empty,
    ready,
    free,
    bias_ptr,
    n_m,
    n_n,
    n_k,
    half: gl.constexpr,
    b_is_transposed: gl.constexpr,
):
    stages: gl.constexpr = a_ring.shape[0]
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 16])
    columns = gl.program_id(0) % n_n * TILE_COLUMNS + gl.arange(0, TILE_COLUMNS, gl.SliceLayout(0, layout))
    step = 0
    phase = 0
    for _ in range(gl.program_id(0) // n_n, n_m, gl.num_programs(0) // n_n):
        sums = gl.zeros([HALF_ROWS, TILE_COLUMNS], gl.float32, layout)
        if bias_ptr is not None:
            sums += gl.load(bias_ptr + columns).to(gl.float32)[None, :]
        for k in range(n_k):
            stage = step % stages
            mbarrier.wait(full.index(stage), step // stages & 1)
            a = a_ring.index(stage).slice(half * HALF_ROWS, HALF_ROWS, dim=0)
            b = b_ring.index(stage)
            if b_is_transposed:
                b = b.permute((1, 0))
            sums = warpgroup_mma(a, b, sums, use_acc=bias_ptr is not None or k > 0, is_async=True)
            sums = warpgroup_mma_wait(1, deps=[sums])
            mbarrier.arrive(empty.index((step + stages - 1) % stages), pred=k > 0)
            step += 1
        sums = warpgroup_mma_wait(0, deps=[sums])
        mbarrier.arrive(empty.index((step + stages - 1) % stages))
        mbarrier.wait(free.index(half), phase ^ 1)
        handed.index(half).store(sums.to(handed.dtype))
        fence_async_shared()
        mbarrier.arrive(ready.index(half))
        phase ^= 1


@gluon.jit
def _activate(handed, ready, free, inner_desc, out_desc, n_m, n_n, by_tanh: gl.constexpr, rows: gl.constexpr):
    """Stores the matmul's result, and GELU of what was rounded, as the backward pass reads it."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [gl.num_warps(), 1], [1, 0])
    column = gl.program_id(0) % n_n * TILE_COLUMNS
    phase = 0
    for m in range(gl.program_id(0) // n_n, n_m, gl.num_programs(0) // n_n):
        for half in gl.static_range(2):
            row = m * TILE_ROWS + half * HALF_ROWS
            mbarrier.wait(ready.index(half), phase)
            block = handed.index(half)
            tma.async_copy_shared_to_global(inner_desc, [row, column], block)
            for i in gl.static_range(HALF_ROWS // rows):
                part = block.slice(i * rows, rows, dim=0)
                result = _gelu(part.load(layout).to(gl.float32), by_tanh).to(handed.dtype)
                if i == 0:
                    tma.store_wait(0)
                part.store(result)
            fence_async_shared()
            tma.async_copy_shared_to_global(out_desc, [row, column], block)
            tma.store_wait(0)
            mbarrier.arrive(free.index(half))
        phase ^= 1


@gluon.jit
def _load_inner(desc, arrived, ring, m, n_m, stride, column, i: gl.constexpr):
    """Part `i` of tile `m`, or of the next tile where it has fewer."""
    parts: gl.constexpr = TILE_ROWS // ring.shape[1]
    tile = m + i // parts * stride
    place = [tile * TILE_ROWS + i % parts * ring.shape[1], column]
    barrier = arrived.index(i % ring.shape[0])
    mbarrier.expect(barrier, desc.block_type.nbytes, pred=tile < n_m)
    tma.async_copy_global_to_shared(desc, place, barrier, ring.index(i % ring.shape[0]), pred=tile < n_m)


@gluon.jit
def _differentiate(
    handed, ring, ready, free, arrived, inner_desc, out_desc, partial_ptr, n_m, n_n, by_tanh: gl.constexpr
):
    """Multiplies by GELU's derivative at `inner`, and leaves the sums of columns, a row of them for each warp."""
    buffers: gl.constexpr = ring.shape[0]
    rows: gl.constexpr = ring.shape[1]
    parts: gl.constexpr = HALF_ROWS // rows
    warps: gl.constexpr = gl.num_warps()
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [warps, 1], [1, 0])
    column = gl.program_id(0) % n_n * TILE_COLUMNS
    first = gl.program_id(0) // n_n
    stride = gl.num_programs(0) // n_n
    sums = gl.zeros([warps, TILE_COLUMNS], gl.float32, layout)
    for i in gl.static_range(buffers):
        _load_inner(inner_desc, arrived, ring, first, n_m, stride, column, i)
    phase = 0
    for m in range(first, n_m, stride):
        for i in gl.static_range(2 * parts):
            if i % parts == 0:
                mbarrier.wait(ready.index(i // parts), phase)
            mbarrier.wait(arrived.index(i % buffers), i // buffers & 1)
            part = handed.index(i // parts).slice(i % parts * rows, rows, dim=0)
            gradient = part.load(layout).to(gl.float32)
            inner = ring.index(i % buffers).load(layout).to(gl.float32)
            _load_inner(inner_desc, arrived, ring, m, n_m, stride, column, i + buffers)
            gradient *= _gelu_slope(inner, by_tanh)
            part.store(gradient.to(handed.dtype))
            of_warps = gl.sum(gradient.reshape([rows // warps, warps, TILE_COLUMNS]), 0)
            sums += gl.convert_layout(of_warps, layout, assert_trivial=True)
            if i % parts == parts - 1:
                fence_async_shared()
                row = m * TILE_ROWS + i // parts * HALF_ROWS
                tma.async_copy_shared_to_global(out_desc, [row, column], handed.index(i // parts))
                tma.store_wait(0)
                mbarrier.arrive(free.index(i // parts))
        phase ^= 1
    row = first * warps + gl.arange(0, warps, gl.SliceLayout(1, layout))
    columns = column + gl.arange(0, TILE_COLUMNS, gl.SliceLayout(0, layout))
    gl.store(partial_ptr + row[:, None] * (n_n * TILE_COLUMNS) + columns[None, :], sums)


@gluon.jit(do_not_specialize=("n_m", "n_n", "n_k"))  # it is compiled once, for any number of tokens
def gelu_matmul(
    a_desc,
    b_desc,
    inner_desc,
    out_desc,
    bias_ptr,
    partial_ptr,
    n_m,
    n_n,
    n_k,
    by_tanh: gl.constexpr,
    stages: gl.constexpr,
    rows: gl.constexpr,
    warps: gl.constexpr,
    multiplier_registers: gl.constexpr,
    epilogue_registers: gl.constexpr,
    loader_registers: gl.constexpr,
    num_warps: gl.constexpr,
):
    """Forward with a bias and B transposed, (N, K); backward with `partial_ptr`, room for sums, and B (K, N)."""
    is_forward: gl.constexpr = partial_ptr is None
    dtype: gl.constexpr = a_desc.dtype
    a_ring = gl.allocate_shared_memory(dtype, [stages, TILE_ROWS, a_desc.block_shape[1]], a_desc.layout)
    b_ring = gl.allocate_shared_memory(dtype, [stages, b_desc.block_shape[0], b_desc.block_shape[1]], b_desc.layout)
    handed = gl.allocate_shared_memory(dtype, [2, HALF_ROWS, TILE_COLUMNS], out_desc.layout)
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
    if not is_forward:
        ring = gl.allocate_shared_memory(dtype, [2, rows, TILE_COLUMNS], inner_desc.layout)
        arrived = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        for i in gl.static_range(2):
            mbarrier.init(arrived.index(i), count=1)
    fence_async_shared()
    gl.warp_specialize(
        [
            (_multiply, (a_ring, b_ring, handed, full, empty, ready, free, bias_ptr, n_m, n_n, n_k, 0, is_forward)),
            (_multiply, (a_ring, b_ring, handed, full, empty, ready, free, bias_ptr, n_m, n_n, n_k, 1, is_forward)),
            (_activate, (handed, ready, free, inner_desc, out_desc, n_m, n_n, by_tanh, rows))
            if is_forward
            else (
                _differentiate,
                (handed, ring, ready, free, arrived, inner_desc, out_desc, partial_ptr, n_m, n_n, by_tanh),
            ),
            (_load, (a_desc, b_desc, a_ring, b_ring, full, empty, n_m, n_n, n_k, is_forward)),
        ],
        [4, warps, 1],
        [multiplier_registers, epilogue_registers, loader_registers],
    )
