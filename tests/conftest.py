import os

import pytest

pytest.register_assert_rewrite("_harness")
os.environ["CONGRUENCE_REPORT"] = "0"  # a page takes a second: tests that are of pages ask for them
