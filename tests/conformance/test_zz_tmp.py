import time
import pytest
from tests.services.functions import Functions

def test_tmp(make_functions):
    functions = make_functions(DEBUG="1")
    source = "exports.handler = async (e) => { if (e.hang) for (;;) {} return 'fine'; };"
    name = functions.create({"index.js": source}, "index.handler", functions.runtime("node"), Timeout=1)
    out = []
    for ev in ({}, {"hang": True}, {}, {"hang": True}, {}):
        b = time.monotonic()
        a = functions.invoke(name, ev)
        out.append((time.strftime("%H:%M:%S"), time.monotonic() - b, a.body[:60], a.log[-200:], [ (e["id"][:6],e["state"]) for e in functions.environments(name)]))
    for o in out: print(o)
    print(functions.stack.log_text())
    assert 0
