"""The report as a page: everything inside, and every wrong word marked."""

from pathlib import Path

import pytest
from fakes import write_transcripts

from qat_plugin.evaluation.formatting import markdown_table
from qat_plugin.evaluation.page import Utterance, part_most, render_page, worst


def test_the_utterances_that_part_arms_most_come_first():
    def heard(name, fp, qat):
        return Utterance(name, "", {"fp": (fp, ""), "ptq": (9, ""), "qat": (qat, "")})

    utterances = [heard("same", 3, 3), heard("worse", 0, 2), heard("better", 4, 1), heard("much worse", 0, 3)]
    found = part_most(utterances, ["fp", "ptq", "qat"])
    assert [utterance.id for utterance in found] == ["much worse", "better", "worse"]
    assert len(part_most(utterances, ["fp", "ptq", "qat"], count=1)) == 1


def test_the_worst_utterances_are_those_with_most_errors_of_the_last_arm():
    def heard(name, fp, qat):
        return Utterance(name, "", {"fp": (fp, ""), "qat": (qat, "")})

    utterances = [heard("fine", 3, 0), heard("b", 0, 2), heard("a", 2, 2), heard("worst", 9, 9)]
    assert [utterance.id for utterance in worst(utterances, "qat")] == ["worst", "a", "b"]
    assert [utterance.id for utterance in worst(utterances, "qat", count=1)] == ["worst"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    heard = {"fp": ["le chat dort", "oui"], "qat": ["le rat dort <b>", "oui"]}
    for arm, texts in heard.items():
        write_transcripts(tmp_path, "studio", arm, {}, list(zip(["le chat dort bien", "oui"], texts, strict=True)))
    return tmp_path


def results_of(*arms: str) -> dict:
    return {"arms": {arm: {} for arm in arms}, "corpora": {"studio": {}}, "settings": {"normalizer": "none"}}


def test_words_stand_side_by_side_in_all_arms(folder: Path) -> None:
    page = "".join(render_page(results_of("fp", "qat"), "# Title\n", folder).split("\n"))
    worst_ones, parting = page.split("<h2>Worst utterances</h2>")[1].split("<h2>Where the arms part</h2>")
    for part in (worst_ones, parting):
        assert part.count('<div class="aligned">') == 1 and "<code>u0</code>" in part  # u1 is right everywhere
        assert "<span>said</span><span>fp: 1</span><span>qat: 2</span>" in part
        assert "<span><span>chat</span><span>chat</span><ins>rat</ins></span>" in part
        assert "<span><span>bien</span><del>–</del><ins>&lt;b&gt;</ins></span>" in part and "<b>" not in part
    assert "Those on which qat errs most" in worst_ones


def test_one_arm_is_compared_with_none(folder: Path) -> None:
    page = render_page(results_of("fp"), "# Title\n", folder)
    assert "Those on which fp errs most" in page and "<code>u0</code>" in page
    assert "Where the arms part" not in page and "qat" not in page


def test_a_plot_has_a_variant_for_dark_pages(folder: Path) -> None:
    for name, content in (("wer.png", b"light"), ("wer-dark.png", b"dark")):
        (folder / name).write_bytes(content)
    page = render_page(results_of("fp"), "# Title\n\n![wer.png](wer.png)\n", folder)
    expected = (
        '<picture><source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,ZGFyaw==">'
        '<img src="data:image/png;base64,bGlnaHQ=" alt="wer.png" /></picture>'
    )
    assert expected in page


def test_long_tables_are_folded_and_nothing_is_lost(tmp_path):
    report = "# Title\n\n## Errors\n\nfew\n\n## Differences\n\nmany\n\n## Speech\n\nspoken\n\n## Files\n\nlisted\n"
    results = {"arms": {"fp": {}}, "corpora": {}, "settings": {"normalizer": "basic"}}
    page = render_page(results, report, tmp_path)
    assert "<details><summary>Differences</summary>\n<p>many</p>\n</details><h2>Speech</h2>" in page
    assert (
        "<details><summary>Files</summary>\n<p>listed</p>\n</details>" in page and "<h2>Errors</h2>\n<p>few</p>" in page
    )


def test_names_bring_no_html_and_no_columns(tmp_path):
    table = markdown_table(
        ["speaker", "WER"], [["<script>alert(1)</script>", "1.0"], ["a|b\nc", "2.0"]], text_columns=1
    )
    results = {"arms": {"fp": {}}, "corpora": {}, "settings": {"normalizer": "basic"}}
    page = render_page(results, f"# Title\n\n{table}\n", tmp_path)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "<td>a|b c</td>" in page.replace(' style="text-align:left"', "")
