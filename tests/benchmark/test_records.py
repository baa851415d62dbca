"""Figures of records, against those worked out by hand from measurements that were made up."""

import json
import re

import made_points
import made_records
import pytest

from benchmark import records
from common.errors import UserError


def block(name, inside=""):
    return f"<!-- record: {name} -->\n{inside}<!-- end -->\n"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A project with three records, and pages that want their figures."""
    folder = tmp_path / "docs" / "records"
    for make in (made_records.scaling, made_records.hugging_face, made_records.quality):
        made_records.page(make(folder), f"Title of {make.__name__}")
    (tmp_path / "README.md").write_text(f"# Front\n\n{block('picture')}\n{block('figures')}", encoding="utf-8")
    (tmp_path / "docs" / "page.md").write_text(block("scaling") + block("quality"), encoding="utf-8")
    (folder / "README.md").write_text(block("records"), encoding="utf-8")
    monkeypatch.setattr(records, "ROOT", tmp_path)
    return tmp_path


def written(tree, name="README.md"):
    records.main(["--write"])
    return (tree / name).read_text(encoding="utf-8")


def rows_of(page):
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_ours_theirs_and_what_others_published(tree):
    rows = {(re.sub(r"\[(.*)\].*", r"\1", name), gpu): cells for name, gpu, *cells in rows_of(written(tree))}
    assert rows["this project, bf16", "1 x H200"] == ["2,000", "400", "900", "600"]
    assert rows["this project, fp8", "1 x H200"] == ["2,500", "500", "1,125", "750"]
    two = ["1,900 (95.0%)", "380 (95.0%)", "855 (95.0%)", "570 (95.0%)"]
    assert rows["this project, bf16", "2 x H200"] == two
    assert rows["Hugging Face's model, compiled, bf16", "1 x H200"] == ["1,600", "300", "-", "400"]
    assert rows["NVIDIA's example, fp16", "1 x A100 80 GB"] == ["580", "210", "-", "110.5"]
    assert rows["MLPerf 5.0, Dell, fp8", "8 x B200"] == ["-", "-", "1,459", "-"]


def test_sentences_follow_from_the_records(tree):
    compared, accumulated, learned = [line for line in written(tree).splitlines() if line.startswith("- ")]
    assert "In phase 1, phase 2 and SQuAD, this project is 1.50, 1.50 and 1.50 times as fast" in compared
    assert "and 2.00, 2.00 and 2.00 times in fp8" in compared
    assert "after every 4 micro-batches reach 98.0% of linear" in accumulated
    assert "43% of the held-out masked tokens after 210 s (200 to 220) in bf16, 189 s (180 to 198) in fp8" in learned
    assert "420 s (400 to 440) with Hugging Face's model; means of 2 seeds on one H200" in learned


def test_equal_times_need_no_range(tree):
    for seed in (1, 2):
        log = tree / "docs" / "records" / "2026-01-02-time-to-quality" / "bf16" / f"seed_{seed}" / "dllogger.json"
        first = log.parents[1] / "seed_1" / "dllogger.json"
        log.write_text(first.read_text(encoding="utf-8").replace('"seed": 1', f'"seed": {seed}'), encoding="utf-8")
    assert "after 200 s in bf16" in written(tree)


def test_links_lead_to_the_records(tree):
    written(tree)
    for page in ("README.md", "docs/page.md", "docs/records/README.md"):
        targets = re.findall(r"\]\(([^):]+)\)", (tree / page).read_text(encoding="utf-8"))
        assert targets
        assert all(((tree / page).parent / target).is_file() for target in targets)


def test_a_variant_that_missed_the_target_has_no_mean(tree):
    log = tree / "docs" / "records" / "2026-01-02-time-to-quality" / "fp8" / "seed_2" / "dllogger.json"
    log.write_text(log.read_text(encoding="utf-8").replace("0.44", "0.42"), encoding="utf-8")
    assert "in bf16, more steps than it had (1 of 2 seeds reached it) in fp8" in written(tree)


def test_the_newest_record_of_a_name_counts(tree):
    newer = tree / "docs" / "records" / "2026-01-10-h200-scaling"
    [first, *_] = made_records.points()
    made_points.write(newer, [first | {"measured": {"sequences_per_second": 1234.0}}])
    made_records.page(newer)
    page = written(tree)
    assert "[this project, bf16](docs/records/2026-01-10-h200-scaling/README.md)" in page
    assert "1,234" in page
    assert "2,000" not in page


def test_what_trained_wrongly_is_not_shown(tree):
    file = tree / "docs" / "records" / "2026-01-02-h200-scaling" / "points.jsonl"
    points = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    points[0]["measured"]["loss_problem"] = "the loss is 14.2"
    made_points.write(file.parent, points)
    page = written(tree)
    assert "2,000" not in page
    assert "1 x H200" in page


def test_a_typed_figure_is_found_and_written_over(tree, capsys):
    before = written(tree)
    records.main(["--check"])
    (tree / "README.md").write_text(before.replace("2,000", "2,001"), encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        records.main(["--check"])
    assert ended.value.code == 1
    assert "not of the records: README.md\n" in capsys.readouterr().out
    assert written(tree) == before


def test_the_picture_has_the_figures_in_words_and_is_drawn_again_when_they_change(tree):
    page = written(tree)
    pictures = sorted((tree / "docs" / "records").glob("*.svg"))
    assert [picture.name for picture in pictures] == ["throughput-dark.svg", "throughput-light.svg"]
    words = "Phase 1, 128 tokens: 2,500 (This project, fp8), 2,000 (This project, bf16), 1,600 (Hugging Face, bf16), "
    for text in (page, *(picture.read_text(encoding="utf-8") for picture in pictures)):
        assert words in text
    made_points.write(tree / "docs" / "records" / "2026-01-03-h200-scaling", [*made_records.points()][:1])
    changed = dict(records.changes(tree))
    assert changed.keys() >= {*pictures, tree / "README.md"}
    assert "SQuAD, 384 tokens: " not in changed[tree / "README.md"]  # ours was not measured again


def test_a_block_without_its_record_stays_as_it_is(tmp_path):
    (tmp_path / "docs" / "records").mkdir(parents=True)
    (tmp_path / "README.md").write_text(block("figures", "until then\n"), encoding="utf-8")
    assert list(records.changes(tmp_path)) == []


def test_conditions_name_hardware_software_and_commit(tree):
    page = written(tree, "docs/records/2026-01-02-h200-scaling/README.md")
    assert "- hardware: 2 x NVIDIA H200, driver 580.1, 16 CPU cores\n" in page
    assert "- software: PyTorch 2.13.0+cu130, CUDA 13.0, NCCL 2.28.9, Python 3.12.3\n" in page
    assert "- commit: 012345678, version 0.9.0\n" in page


def test_records_are_listed_with_their_titles(tree):
    assert rows_of(written(tree, "docs/records/README.md"))[2:] == [
        [f"[{name}]({name}/README.md)", f"Title of {title}"]
        for name, title in (
            ("2026-01-02-h200-huggingface", "hugging_face"),
            ("2026-01-02-h200-scaling", "scaling"),
            ("2026-01-02-time-to-quality", "quality"),
        )
    ]


def test_results_are_kept_without_absolute_paths_and_never_over_others(tmp_path, capsys):
    results, record = tmp_path / "results", tmp_path / "record"
    (results / "runs" / "one").mkdir(parents=True)
    (results / "runs" / "one" / "dllogger.json").write_text("DLLL {}\n", encoding="utf-8")
    (results / "bf16").mkdir()
    (results / "bf16" / "dllogger.json").write_text('DLLL {"input_dir": "/home/somebody/data"}\n', encoding="utf-8")
    (results / "points.jsonl").write_text('{"command": "/usr/bin/python3 /w/run_squad.py"}\n', encoding="utf-8")
    (results / "ckpt_1.pt").write_bytes(b"\0")
    records.main(["--keep", str(results), str(record)])
    kept = {file.relative_to(record).as_posix(): file.read_text(encoding="utf-8") for file in record.rglob("*.json*")}
    assert kept == {
        "points.jsonl": '{"command": "python3 run_squad.py"}\n',
        "bf16/dllogger.json": 'DLLL {"input_dir": "data"}\n',
    }
    with pytest.raises(UserError, match="is there already; choose another name"):
        records.main(["--keep", str(results), str(record)])
    with pytest.raises(UserError, match=r"has none of \*\.jsonl"):
        records.main(["--keep", str(results / "runs" / "two"), str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("planted", "complaint"),
    [
        (
            lambda points: [*points, points[0] | {"configuration": points[0]["configuration"] | {"compile": True}}],
            "two configurations of phase1, bf16, 1 GPU, 1 micro-batch",
        ),
        (
            lambda points: [*points, points[0] | {"environment": {"gpus": ["NVIDIA H100"]}}],
            r"is of \['NVIDIA H100', 'NVIDIA H200'\]",
        ),
    ],
)
def test_a_record_with_two_truths_is_refused(tree, planted, complaint):
    folder = tree / "docs" / "records" / "2026-01-02-h200-scaling"
    made_points.write(folder, planted([*made_records.points()]))
    with pytest.raises(UserError, match=complaint):
        records.main(["--write"])


def test_an_unknown_block_is_named(tree):
    (tree / "README.md").write_text(block("figure"), encoding="utf-8")
    with pytest.raises(UserError, match=r"README\.md has a block figure; choose of figures, "):
        records.main(["--check"])
