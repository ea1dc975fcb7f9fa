"""The reports of the benchmarks, from figures that the tests make up. No test measures anything."""

from benchmarks import images, report


def test_the_report_on_images_is_a_page_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    found = {
        name: images.Measured(
            name, build=2.0, size=3_000_000, packed=1_000_000, runner=[0.5], command=[0.5], nothing=[0.1]
        )
        for name in ("naive", "component")
    }
    images._write("this machine", [images._of_tasks(found)], found)
    page = (tmp_path / "results" / "images.md").read_text()
    assert "| kfp.local.DockerRunner | 0.50 | 0.50 | 1.0 |" in page and "component 3 MB" in page
    assert (tmp_path / "results" / "images.png").read_bytes().startswith(b"\x89PNG")
