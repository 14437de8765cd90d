"""How a function's runtime is started as a plain process: its command and its environment.

Words: a *runtime* is AWS's identifier (``python3.12``); a *family* is what its name begins with and decides what is
started; a *client* is the small program of ours that speaks AWS's Runtime API inside the function's process. The
clients lie in ``python/`` and ``node/`` as plain package data and import nothing of Everwarm: they run under the
function's interpreter, whose version need not be ours.

``commands`` and ``variables`` decide, ``interpreters`` looks for interpreters and starts nothing but those that are
asked for their version, ``clients`` copies the clients to where functions may read them.
"""
