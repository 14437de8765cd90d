"""Runtimes for local mode: the interpreters, how to start them, and Everwarm's own Runtime API clients."""
