"""Synchronous calls: which workers there are, how a call reaches one, and how its answer comes back."""
