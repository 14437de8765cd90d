"""How invocations behave, whatever mode runs them: every test takes ``functions``, which comes once for each mode."""
