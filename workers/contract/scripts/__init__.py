"""The Lua scripts, one operation a file, and the typed functions by which both sides call them.

Each ``.lua`` file has its keys, arguments and answers in its header. A function here takes what the script needs by name
and answers a :class:`~workers.contract.scripts.call.Call`, a value; a client of Redis runs it (``workers.redis_client``
from threads, ``dispatcher.redis_client`` under asyncio). Which key goes where is written in that function and nowhere else;
a test holds the functions and the headers together.

Redis' ``TIME`` is the only clock, an owner token and a generation fence late owners off, and answers are words.
"""
