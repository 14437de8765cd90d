"""The execution modes, behind one seam: ``invoke(invocation) -> Outcome`` and ``close()``."""
