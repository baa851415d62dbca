"""Tables of kernels from ncu's CSV: files written by hand, with answers worked out by hand, and one of a real H200."""

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from benchmark.nsight_metrics import SHARES
from benchmark.profiles.kernel_names import short_name
from benchmark.profiles.nsight_compute import Launch, bound, read_launches, summarize, weighted
from common.errors import UserError

REAL = Path(__file__).parent / "ncu_h200_raw.csv"
IDENTITY = "ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream", "Device", "CC"
TENSOR = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
DRAM = "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed"
BF16 = "sm__ops_path_tensor_src_bf16_dst_fp32.sum"
FFMA = "sm__sass_thread_inst_executed_op_ffma_pred_on.sum"
FADD = "sm__sass_thread_inst_executed_op_fadd_pred_on.sum"
TIME, CYCLES, BYTES = "gpu__time_duration.sum", "sm__cycles_elapsed.max", "dram__bytes.sum"


def quoted(cells):
    return ",".join('"' + str(cell).replace('"', '""') + '"' for cell in cells)


def identity(number, kernel, process=7, capability="9.0"):
    return [number, process, "python3", "127.0.0.1", kernel, 1, 7, 0, capability]


def wide(path, units, launches):
    """Write the form of --page raw. units: metric to unit; launches: (identity, texts)."""
    lines = ["==PROF== Connected to process 7 (/usr/bin/python3)"]
    lines += [quoted([*IDENTITY, *units]), quoted([""] * len(IDENTITY) + list(units.values()))]
    lines += [quoted([*who, *texts]) for who, texts in launches]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


UNITS = {TIME: "ns", CYCLES: "cycle", TENSOR: "%", DRAM: "%", BYTES: "byte", BF16: "", FFMA: "inst", FADD: "inst"}
LAUNCHES = [
    (identity(0, "gemm<128>(int)"), ["30,500", "3,000", "80.0", "20", "6,500,000", "1,000,000,000", "100", "10"]),
    (identity(1, "void add<4>(float *)"), ["10000.0", "1,000", "0", "90", "3e7", "0", "0", "1,000"]),
    (identity(2, "gemm<64>(int)"), ["19,500", "2,000", "60", "30", "3,500,000", "500,000,000", "50", "0"]),
]


def test_the_raw_page(tmp_path):
    summary = summarize(wide(tmp_path / "ncu.csv", UNITS, LAUNCHES), "NVIDIA H200")
    assert (summary["schema"], summary["kind"], summary["source"], summary["file"]) == (1, "kernels", "ncu", "ncu.csv")
    assert (summary["launches"], summary["processes"], summary["compute_capability"]) == (3, 1, "9.0")
    assert summary["seconds"] == pytest.approx(60e-6)
    # (80 x 3000 + 0 x 1000 + 60 x 2000) / 6000 and (20 x 3000 + 90 x 1000 + 30 x 2000) / 6000
    assert summary["core_utilisation"] == pytest.approx({"tensor": 0.60, "dram": 0.35})
    gemm, add = summary["kernels"]
    assert gemm == pytest.approx(
        {
            "name": "gemm",
            "launches": 2,
            "seconds": 50e-6,
            "share": 50 / 60,
            "flops": 1.5e9 + 2 * 150 + 10,
            "dram_bytes": 10e6,
            "tensor": 0.72,  # (80 x 3 + 60 x 2) / 5
            "dram": 0.24,
        }
    )
    assert (add["name"], add["flops"], add["dram_bytes"]) == ("add", 1000, 30e6)
    assert summary["ceilings"] == {"tensor_flops_per_second": 989.4e12, "dram_bytes_per_second": 4.8e12}
    # The ridge is at 206 FLOP/byte; gemm has 150, and with a tenth of the bytes 1,500.
    assert bound(gemm, summary["ceilings"]) == bound(add, summary["ceilings"]) == "memory"
    assert bound(gemm | {"dram_bytes": 1e6}, summary["ceilings"]) == "compute"
    assert bound(gemm, {}) is None
    assert bound({name: gemm[name] for name in gemm if name != "flops"}, summary["ceilings"]) is None


def test_processes_are_counted(tmp_path):
    rows = [(identity(0, "a()", 11), ["5", "10", "50"]), (identity(0, "a()", 12), ["7", "30", "90"])]
    summary = summarize(wide(tmp_path / "a.csv", {TIME: "ns", CYCLES: "cycle", TENSOR: "%"}, rows), None)
    assert (summary["processes"], summary["launches"], summary["device"]) == (2, 2, None)
    assert summary["core_utilisation"]["tensor"] == pytest.approx(0.8)  # (50 x 10 + 90 x 30) / 40
    assert summary["ceilings"] == {}


@pytest.mark.parametrize(
    ("units", "texts", "said"),
    [
        ({TIME: "us", CYCLES: "cycle"}, ["1.5", "10"], r"gpu__time_duration\.sum is '1\.5' in 'us'"),
        ({TIME: "ns", CYCLES: "cycle", BYTES: "Mbyte"}, ["1", "10", "3"], "is '3' in 'Mbyte'"),
        ({TIME: "ns", CYCLES: "cycle"}, ["1,5", "10"], "is '1,5' in 'ns'"),
        ({TIME: "ns", CYCLES: "cycle"}, ["1.234.567", "10"], "is '1.234.567' in 'ns'"),
        ({TIME: "ns", CYCLES: "cycle", TENSOR: "%"}, ["1", "10", "12,345"], "is 12,345 %"),  # 12.345 in German
        ({TIME: "ns", TENSOR: "%"}, ["1", "12"], "it lacks sm__cycles_elapsed.max"),
        ({CYCLES: "cycle", TENSOR: "%"}, ["1", "12"], "it lacks gpu__time_duration.sum"),
    ],
)
def test_other_units_numbers_and_metrics_are_refused(tmp_path, units, texts, said):
    path = wide(tmp_path / "x.csv", units, [(identity(0, "a()"), texts)])
    with pytest.raises(
        UserError, match=rf"x\.csv is no whole table of ncu's raw page .*\(.*{said}\); ncu writes it when"
    ):
        read_launches(path)


def test_what_was_not_measured_is_absent_and_no_zero(tmp_path):
    units = {TIME: "ns", CYCLES: "cycle", TENSOR: "%", BYTES: "byte"}
    rows = [(identity(0, "a()"), ["5", "10", "50", "n/a"]), (identity(1, "a()"), ["5", "10", "n/a", "8"])]
    summary = summarize(wide(tmp_path / "x.csv", units, rows), None)
    assert summary["core_utilisation"] == {"tensor": 0.5}
    assert "dram_bytes" not in summary["kernels"][0]  # a total of some launches is none
    assert "flops" not in summary["kernels"][0]


def test_a_table_that_was_cut_off_is_refused(tmp_path):
    path = wide(tmp_path / "x.csv", UNITS, LAUNCHES)
    whole = path.read_text()
    for end in (whole.rindex('"0"') - 1, len(whole) - 3, whole.rindex('"19,500"') + 3):
        path.write_text(whole[:end])
        with pytest.raises(UserError, match=r"x\.csv is no whole table"):
            read_launches(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # The whole file of an ncu that was stopped after five minutes on an H200.
        (
            "==WARNING== Note: Running with unmodified GPU clocks.\n"
            "==PROF== Connected to process 551 (/usr/bin/python3.12)\n",
            r"\(it lacks Process ID, .*\); ncu writes it when the program has ended, so let it end",
        ),
        (
            "==PROF== Connected to process 5 (/usr/bin/python3)\n"
            "==ERROR== ERR_NVGPUCTRPERM - The user has no permission to access the counters\n",
            r"\(==ERROR== ERR_NVGPUCTRPERM - The user",
        ),
        ("a,b\n1,2\n", "is no whole table of ncu's raw page"),
        (quoted([*IDENTITY, "Metric Name", "Metric Unit"]) + "\n" + quoted(["0"] * 11) + "\n", "it lacks gpu__time"),
        (quoted([*IDENTITY, TIME, CYCLES]) + "\n" + quoted([""] * 11) + "\n", "has no kernel with gpu__time"),
    ],
)
def test_files_without_kernels(tmp_path, text, sentence):
    path = tmp_path / "ncu.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_launches(path)


def test_a_layer_of_bert_large_on_an_h200():
    """Most kernels of a layer, 128 x 128 tokens in bf16, as profile_pretrain.sh has them measured (ncu 2025.3.1).

    A product of m x k and k x n takes 2 m n k operations; attention takes 4 B L^2 H forward, its softmax aside.
    """
    launches = read_launches(REAL)
    assert len(launches) == 46
    tokens, hidden = 128 * 128, 1024
    products = [launch.values["flops"] for launch in launches if launch.kernel.startswith("nvjet")]
    widths = 3 * hidden, hidden, 4 * hidden, 4 * hidden  # forward: QKV, output, up, down
    # What is beyond is outside of the tensor cores: the bias.
    assert products[:4] == pytest.approx([2 * tokens * hidden * width for width in widths], rel=2e-3)
    (attention,) = [launch.values["flops"] for launch in launches if "flash_fwd_kernel" in launch.kernel]
    assert attention == pytest.approx(4 * 128 * 128**2 * hidden, rel=0.05)

    summary = summarize(REAL, "NVIDIA H200")
    bounds = {kernel["name"]: bound(kernel, summary["ceilings"]) for kernel in summary["kernels"]}
    assert {bounds[name] for name in bounds if name.startswith("nvjet")} == {"compute"}
    assert bounds["vectorized_layer_norm_kernel"] == bounds["fused_dropout_kernel_vec"] == "memory"
    assert 0.5 < summary["core_utilisation"]["tensor"] < 0.53


@hypothesis.given(
    st.lists(st.tuples(st.floats(1, 1e9), st.dictionaries(st.sampled_from(SHARES), st.floats(0, 1))), max_size=20)
)
def test_weighted_shares_are_those_of_a_plain_loop(launches):
    found = weighted([Launch("1", "k", "9.0", {"cycles": cycles, **shares}) for cycles, shares in launches])
    for quantity in SHARES:
        above = below = 0.0
        for cycles, shares in launches:
            if quantity in shares:
                above += cycles * shares[quantity]
                below += cycles
        assert (quantity in found) == (below > 0)
        if below:
            assert found[quantity] == pytest.approx(above / below)


LIST, AT, UNNAMED = "TensorListMetadata<2>", "at::native::(anonymous namespace)::", "<unnamed>::"


@pytest.mark.parametrize(
    ("kernel", "short"),
    [
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT"),
        ("void pytorch_flash::flash_fwd_kernel<Traits<64, 128>, true>(Params)", "flash_fwd_kernel"),
        (
            "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>(int)",
            "vectorized_layer_norm_kernel",
        ),
        ("void (anonymous namespace)::softmax_warp_forward<float, 1>(float*, int)", "softmax_warp_forward"),
        ("void <unnamed>::softmax_warp_forward<float, 1>(float *, int)", "softmax_warp_forward"),
        (
            f"void {AT}multi_tensor_apply_kernel<{AT}{LIST}, {AT}BinaryOpListAlphaFunctor<float, 2, 2, 0>, "
            f"std::multiplies<float>, float>({AT}{LIST})",
            "multi_tensor_apply_kernel: BinaryOpListAlphaFunctor multiplies",
        ),
        (
            f"void {UNNAMED}multi_tensor_apply_kernel<{UNNAMED}{LIST}, {UNNAMED}BinaryOpListAlphaFunctor<float, 2>, "
            "plus<float>, float>(T1)",
            "multi_tensor_apply_kernel: BinaryOpListAlphaFunctor plus",
        ),
        (
            "void at::native::reduce_kernel<512, at::native::ReduceOp<float, at::native::NormTwoOps<float>, 4> >(int)",
            "reduce_kernel: NormTwoOps",
        ),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<float, float, float, "
            "at::native::binary_internal::MulFunctor<float> >, std::array<char*, 3ul> >(int)",
            "vectorized_elementwise_kernel: MulFunctor",
        ),
        (
            "void at::native::elementwise_kernel<128, 2, at::native::gpu_kernel_impl_nocast<at::native::(anonymous "
            "namespace)::where_kernel_impl(at::TensorIterator&)::{lambda()#1} >(int)",
            "elementwise_kernel: where_kernel_impl",
        ),
        ("void cutlass::Kernel2<cutlass_80_wmma_bf16_32x32_nn>(T::Params)", "Kernel2: cutlass_80_wmma_bf16_32x32_nn"),
        ("Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD"),
        ("aten::addmm", "addmm"),
    ],
)
def test_short_names(kernel, short):
    assert short_name(kernel) == short
