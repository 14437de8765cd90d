import pytest, os
pytestmark = [pytest.mark.timeout(1800), pytest.mark.xdist_group("compose")]
@pytest.mark.parametrize("n", range(6))
def test_a(n): pass
