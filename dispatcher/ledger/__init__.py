"""The ledger: every event that was answered 202, until long after it has ended.

The ledger is the truth about events, and messages are copies.

An event is *queued* (due now or later), *fed* (a message with it is on its way to a worker, or runs there), *succeeded*,
*failed* or *cancelled*. The number of its newest *attempt* is the fence: an ending of an older attempt changes nothing.

``ledger`` has the :class:`~dispatcher.ledger.ledger.Ledger`, which the rest of the dispatcher talks to. Every other module
is functions of a SQLAlchemy connection, one subject each: ``accepting``, ``feeding``, ``settling`` (with the pure rules in
``deciding``, and what the end of an event causes in ``consequences``), ``deliveries``, ``cancelling``, ``listing`` and
``retention``. ``endings`` has the values that these hand each other, ``rows`` what their queries answer, ``records`` the
documents that are sent.
"""
