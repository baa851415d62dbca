"""Tables of kernels from ncu's CSV: files written by hand, with answers worked out by hand, and two of a real H200."""

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from benchmark.nsight_metrics import SHARES
from benchmark.profiles.kernel_names import short_name
from benchmark.profiles.ncu_csv import Launch, read_launches
from benchmark.profiles.nsight_compute import bound, summarize, weighted
from common.errors import UserError

REAL = Path(__file__).parent / "ncu_h200_details.csv"
REAL_RAW = Path(__file__).parent / "ncu_h200_raw.csv"
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


def wide(path, units, launches, header=True):
    """Write the form of --page raw. units: metric to unit; launches: (identity, texts)."""
    lines = ["==PROF== Connected to process 7 (/usr/bin/python3)"] if header else []
    lines += [quoted([*IDENTITY, *units]), quoted([""] * len(IDENTITY) + list(units.values()))]
    lines += [quoted([*who, *texts]) for who, texts in launches]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def long(path, rows):
    """Write the form of --page details: (identity, metric, unit, text)."""
    header = [*IDENTITY, "Section Name", "Metric Name", "Metric Unit", "Metric Value", "Rule Name", "Rule Type"]
    lines = [quoted(header)] + [quoted([*who, "Section", *cells]) + "," for who, *cells in rows]
    path.write_text("\n".join(line[:-1] if line.endswith(",") else line for line in lines), encoding="utf-8")
    return path


def of(path, gpu=None):
    return summarize(read_launches(path), path, gpu)


UNITS = {TIME: "us", CYCLES: "cycle", TENSOR: "%", DRAM: "%", BYTES: "Mbyte", BF16: "", FFMA: "inst", FADD: "inst"}
LAUNCHES = [
    (identity(0, "gemm<128>(int)"), ["30.5", "3,000", "80.0", "20", "6.5", "1,000,000,000", "100", "10"]),
    (identity(1, "void add<4>(float *)"), ["10", "1,000", "0", "90", "30", "0", "0", "1,000"]),
    (identity(2, "gemm<64>(int)"), ["19.5", "2,000", "60", "30", "3.5", "500,000,000", "50", "0"]),
]


def test_the_wide_form(tmp_path):
    summary = of(wide(tmp_path / "ncu.csv", UNITS, LAUNCHES), "NVIDIA H200")
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


def test_the_long_form_says_the_same(tmp_path):
    rows = [
        (who, metric, unit, text)
        for who, texts in LAUNCHES
        for (metric, unit), text in zip(UNITS.items(), texts, strict=True)
    ]
    found = of(long(tmp_path / "a.csv", rows))
    expected = of(wide(tmp_path / "b.csv", UNITS, LAUNCHES))
    assert {**found, "file": ""} == {**expected, "file": ""}


def test_a_device_that_the_file_names(tmp_path):
    units = {"device__attribute_display_name": "", "device__attribute_warp_size": "thread", TIME: "ns", CYCLES: "cycle"}
    path = wide(tmp_path / "ncu.csv", units, [(identity(0, "a()"), ["NVIDIA A100-SXM4-80GB", "32", "5", "6"])])
    summary = of(path, "NVIDIA H200")
    assert summary["device"] == "NVIDIA A100-SXM4-80GB"
    assert summary["ceilings"]["dram_bytes_per_second"] == pytest.approx(2.039e12)
    assert of(wide(tmp_path / "x.csv", {TIME: "ns", CYCLES: ""}, [(identity(0, "a()"), ["5", "6"])]))["ceilings"] == {}


def test_several_processes_count_launches_of_their_own(tmp_path):
    units = {TIME: "ns", CYCLES: "cycle", TENSOR: "%"}
    wide(
        tmp_path / "a.csv",
        units,
        [(identity(0, "a()", 11), ["5", "10", "50"]), (identity(0, "a()", 12), ["7", "30", "90"])],
    )
    other = wide(tmp_path / "b.csv", {CYCLES: "cycle", TIME: "us"}, [(identity(0, "a()", 13), ["1", "1"])])
    both = tmp_path / "both.csv"  # of two machines, one behind the other, each with its own header
    both.write_text((tmp_path / "a.csv").read_text() + other.read_text())
    summary = of(both)
    assert (summary["processes"], summary["launches"]) == (3, 3)
    assert summary["seconds"] == pytest.approx(5e-9 + 7e-9 + 1e-6)
    assert summary["core_utilisation"]["tensor"] == pytest.approx(
        0.8
    )  # (50 x 10 + 90 x 30) / 40, where it was measured


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [("ns", 2e-9), ("nsecond", 2e-9), ("us", 2e-6), ("usecond", 2e-6), ("ms", 2e-3), ("msecond", 2e-3), ("s", 2.0)],
)
def test_units_of_time(tmp_path, unit, seconds):
    path = wide(tmp_path / "x.csv", {TIME: unit, CYCLES: "cycle"}, [(identity(0, "a()"), ["2", "3"])])
    assert of(path)["seconds"] == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("byte", 1), ("Kbyte", 1e3), ("Mbyte", 1e6), ("Gbyte", 1e9), ("Tbyte", 1e12), ("K", 1e3), ("M", 1e6), ("G", 1e9)],
)
def test_units_with_prefixes(tmp_path, unit, factor):
    path = wide(
        tmp_path / "x.csv", {TIME: "ns", CYCLES: "Kcycle", BYTES: unit}, [(identity(0, "a()"), ["2", "3", "1.5"])]
    )
    assert of(path)["kernels"][0]["dram_bytes"] == pytest.approx(1.5 * factor)


@pytest.mark.parametrize(
    ("texts", "seconds", "share"),
    [
        (["1,234,567", "10", "12.5"], 1.234567e-3, 0.125),
        (["1.234.567", "10", "12,5"], 1.234567e-3, 0.125),
        (["1.234,5", "10", "12,5"], 1234.5e-9, 0.125),
        (["1,234.5", "10", "12"], 1234.5e-9, 0.12),
        (["1\u202f234\u202f567", "10", "12,5"], 1.234567e-3, 0.125),
        (["1'234'567", "10", "12.5"], 1.234567e-3, 0.125),
        (["1.2e3", "10", "12.5"], 1.2e-6, 0.125),
    ],
)
def test_numbers_as_locales_write_them(tmp_path, texts, seconds, share):
    path = wide(tmp_path / "x.csv", {TIME: "ns", CYCLES: "cycle", TENSOR: "%"}, [(identity(0, "a()"), texts)])
    summary = of(path)
    assert summary["seconds"] == pytest.approx(seconds)
    assert summary["core_utilisation"]["tensor"] == pytest.approx(share)


def test_numbers_of_two_locales_are_refused(tmp_path):
    path = wide(tmp_path / "x.csv", {TIME: "ns", CYCLES: ""}, [(identity(0, "a()"), ["1.5", "1,5"])])
    with pytest.raises(UserError, match=r"x\.csv has numbers with decimal points and with decimal commas"):
        of(path)


def test_a_share_that_cannot_be_is_refused(tmp_path):
    """12,345 is a share of 12.345 % in German; nothing else in the file tells."""
    path = wide(tmp_path / "x.csv", {TIME: "ns", CYCLES: "", TENSOR: "%"}, [(identity(0, "a()"), ["1", "2", "12,345"])])
    with pytest.raises(UserError, match="12,345 % of a peak were reached; are its decimal marks commas"):
        of(path)


def test_what_was_not_measured_is_absent_and_no_zero(tmp_path):
    units = {TIME: "ns", CYCLES: "cycle", TENSOR: "%", BYTES: "byte"}
    rows = [(identity(0, "a()"), ["5", "10", "50", "n/a"]), (identity(1, "a()"), ["5", "10", "n/a", "8"])]
    summary = of(wide(tmp_path / "x.csv", units, rows))
    assert summary["core_utilisation"] == {"tensor": 0.5}
    assert "dram_bytes" not in summary["kernels"][0]  # a total of some launches is none
    assert "flops" not in summary["kernels"][0]


def test_operations_without_those_of_the_tensor_cores_are_not_a_kernels(tmp_path):
    path = wide(tmp_path / "x.csv", {TIME: "ns", CYCLES: "", FFMA: "inst"}, [(identity(0, "a()"), ["5", "10", "99"])])
    assert "flops" not in of(path)["kernels"][0]


@pytest.mark.parametrize("missing", [TIME, CYCLES])
def test_without_time_or_cycles_nothing_is_made_up(tmp_path, missing):
    units = {name: unit for name, unit in {TIME: "ns", CYCLES: "cycle", TENSOR: "%"}.items() if name != missing}
    path = wide(tmp_path / "x.csv", units, [(identity(0, "a()"), ["5", "50"])])
    with pytest.raises(UserError, match="without which nothing can be weighted; measure again"):
        of(path)


@pytest.mark.parametrize(
    ("metric", "quantity"),
    [
        ("sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active", "tensor"),  # V100
        ("sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active", "fma"),
        ("sm__inst_executed_pipe_fp16.avg.pct_of_peak_sustained_active", "fp16"),  # to Ampere
        ("sm__inst_executed_pipe_fma_type_fp16.avg.pct_of_peak_sustained_active", "fp16"),  # from Ada
        ("sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active", "sfu"),
        ("dram__throughput.avg.pct_of_peak_sustained_elapsed", "dram"),
        ("sm__throughput.avg.pct_of_peak_sustained_elapsed", "sm"),
    ],
)
def test_names_of_other_architectures(tmp_path, metric, quantity):
    units = {TIME: "ns", CYCLES: "cycle", metric: "%"}
    path = wide(tmp_path / "x.csv", units, [(identity(0, "a()", capability="7.0"), ["5", "10", "25"])])
    summary = of(path)
    assert summary["core_utilisation"] == {quantity: 0.25}
    assert summary["compute_capability"] == "7.0"


def test_operations_of_another_architecture(tmp_path):
    units = {TIME: "ns", CYCLES: "cycle", "sm__ops_path_tensor_src_fp16_bf16_tf32_dst_fp32.sum": "M"}
    path = wide(tmp_path / "x.csv", units, [(identity(0, "a()", capability="7.5"), ["5", "10", "2.5"])])
    assert of(path)["kernels"][0]["flops"] == pytest.approx(2.5e6)


def test_a_last_row_that_was_cut_off_is_left_out(tmp_path):
    path = wide(tmp_path / "x.csv", UNITS, LAUNCHES)
    whole = path.read_text()
    for end in (whole.rindex('"0"'), len(whole) - 3, whole.rindex('"19.5"') + 3):
        path.write_text(whole[:end])
        assert of(path)["launches"] == 2
    rows = whole.splitlines()
    rows[3] = rows[3][: len(rows[3]) // 2]
    path.write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"x\.csv has a row of \d+ columns under a header of 17"):
        of(path)


def test_what_the_program_printed_in_between_is_no_row(tmp_path):
    path = wide(tmp_path / "x.csv", UNITS, LAUNCHES)
    lines = path.read_text().splitlines()
    said = ["step 3/4 | average_loss 10.5", 'a "quote" that is not closed: "', "==WARNING== clocks"]
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("\ufeff" + "\r\n".join([said[0], *lines[:3], *said, *lines[3:], "", "done, and well"]), "utf-8")
    assert {**of(mixed), "file": ""} == {**of(path), "file": ""}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # The whole file of an ncu that was stopped after five minutes on an H200.
        (
            "==WARNING== Note: Running with unmodified GPU clocks.\n"
            "==PROF== Connected to process 551 (/usr/bin/python3.12)\n",
            "holds ncu's messages and no kernel",
        ),
        (
            "==PROF== Connected to process 5 (/usr/bin/python3)\n"
            "==ERROR== ERR_NVGPUCTRPERM - The user has no permission to access the counters\n",
            "holds an error of ncu's and no kernel: ERR_NVGPUCTRPERM - The user",
        ),
        ("a,b\n1,2\n", "has no header of ncu's"),
        (quoted([*IDENTITY, TIME]) + "\n", "has no kernel in it; was one launched in the window"),
    ],
)
def test_files_without_kernels(tmp_path, text, sentence):
    path = tmp_path / "ncu.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        of(path)


def test_real_output_of_an_h200():
    """Five kernels, ncu 2025.3.1 with --page details; the shares by hand from its Elapsed Cycles."""
    summary = of(REAL, "NVIDIA H200")
    cycles, dram = (20095, 13868, 25897, 13023, 25142), (33.51, 1.66, 57.30, 0.15, 59.36)
    weights = sum(cycle * share for cycle, share in zip(cycles, dram, strict=True)) / sum(cycles) / 100
    assert summary["core_utilisation"]["dram"] == pytest.approx(weights)
    assert summary["core_utilisation"].keys() == {"dram", "sm"}
    assert summary["seconds"] == pytest.approx((10208 + 7072 + 13120 + 6624 + 12768) * 1e-9)
    kernels = {kernel["name"]: (kernel["launches"], kernel["seconds"]) for kernel in summary["kernels"]}
    assert kernels == {
        "vectorized_elementwise_kernel: CUDAFunctor_add": (2, pytest.approx(25888e-9)),
        "vectorized_gather_kernel": (3, pytest.approx(23904e-9)),
    }


def test_a_layer_of_bert_large_on_an_h200():
    """Most kernels of a layer, 128 x 128 tokens in bf16, as profile_pretrain.sh has them measured (ncu 2025.3.1).

    A product of m x k and k x n takes 2 m n k operations; attention takes 4 B L^2 H forward, its softmax aside.
    """
    launches = read_launches(REAL_RAW)
    assert len(launches) == 46
    tokens, hidden = 128 * 128, 1024
    products = [launch.values["flops"] for launch in launches if launch.kernel.startswith("nvjet")]
    widths = 3 * hidden, hidden, 4 * hidden, 4 * hidden  # forward: QKV, output, up, down
    # What is beyond is outside of the tensor cores: the bias.
    assert products[:4] == pytest.approx([2 * tokens * hidden * width for width in widths], rel=2e-3)
    (attention,) = [launch.values["flops"] for launch in launches if "flash_fwd_kernel" in launch.kernel]
    assert attention == pytest.approx(4 * 128 * 128**2 * hidden, rel=0.05)

    summary = of(REAL_RAW, "NVIDIA H200")
    bounds = {kernel["name"]: bound(kernel, summary["ceilings"]) for kernel in summary["kernels"]}
    assert {bounds[name] for name in bounds if name.startswith("nvjet")} == {"compute"}
    assert bounds["vectorized_layer_norm_kernel"] == bounds["fused_dropout_kernel_vec"] == "memory"
    assert 0.5 < summary["core_utilisation"]["tensor"] < 0.53


@hypothesis.given(
    st.lists(st.tuples(st.floats(1, 1e9), st.dictionaries(st.sampled_from(SHARES), st.floats(0, 1))), max_size=20)
)
def test_weighted_shares_are_those_of_a_plain_loop(launches):
    found = weighted([Launch("k", "1", "9.0", None, {"cycles": cycles, **shares}) for cycles, shares in launches])
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
