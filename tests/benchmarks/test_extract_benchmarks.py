"""The benchmarks of the extraction run; at this size their figures mean nothing."""

import extract_html
import extract_wat
import pytest


def test_extract_html(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.html").write_text("<img src=1.jpg alt=one>")
    assert extract_html.main([str(tmp_path), "--repeats", "1"]) > 0
    assert "2 pages" in capsys.readouterr().out


@pytest.mark.long
def test_extract_wat(capsys):
    extract_wat.main(["--pages", "10", "--repeats", "1"])
    assert "80 alt texts" in capsys.readouterr().out
