"""The report as a page: everything inside, and every wrong word marked."""

import pytest

from qat_plugin.evaluation.formatting import markdown_table
from qat_plugin.evaluation.page import Utterance, mark_errors, part_most, render_page


@pytest.mark.parametrize(
    ("reference", "hypothesis", "marked"),
    [
        ("le chat dort", "le chat dort", "le chat dort"),
        ("le chat dort", "le rat dort bien", "le <del>chat</del> <ins>rat</ins> dort <ins>bien</ins>"),
        ("un deux trois", "trois", "<del>un deux</del> trois"),
        ("", "merci <b>", "<ins>merci &lt;b&gt;</ins>"),
        ("bonjour", "", "<del>bonjour</del>"),
    ],
)
def test_wrong_and_missing_words_are_marked(reference, hypothesis, marked):
    assert mark_errors(reference, hypothesis) == marked


def test_the_utterances_that_part_arms_most_come_first():
    def heard(name, fp, qat):
        return Utterance(name, "", {"fp": (fp, ""), "ptq": (9, ""), "qat": (qat, "")})

    utterances = [heard("same", 3, 3), heard("worse", 0, 2), heard("better", 4, 1), heard("much worse", 0, 3)]
    found = part_most(utterances, ["fp", "ptq", "qat"])
    assert [utterance.id for utterance in found] == ["much worse", "better", "worse"]
    assert len(part_most(utterances, ["fp", "ptq", "qat"], count=1)) == 1


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
