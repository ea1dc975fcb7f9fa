"""The memory of the components is bounded for hostile input: long lines, open quotes, wide tables, odd zips."""

import sys

import pytest

from benchmarks.data_path_memory import CASES, measure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak memory; to run it: use Linux"),
]
# A table of one quarter of the size shows the same peak if the memory is bounded.
LIMIT_MB, PERCENT = 250, 25
READ = ("plain table", "table of", "rows of 7 MB", "60,000 columns", "zip of 300,000 files")


@pytest.mark.parametrize("name", CASES)
def test_the_memory_stays_below_the_limit_of_the_docs(name):
    result, peak, _ = measure(name, 100 if "zip" in name else PERCENT)
    assert result.startswith("read" if name.startswith(READ) else "refused"), result
    assert peak < LIMIT_MB, result


def test_a_table_with_sixty_thousand_columns_is_read():
    for name in ("60,000 columns with `,`", "60,000 columns with `;`"):
        assert "60,000 columns" in measure(name, 5)[0]
