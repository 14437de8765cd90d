"""Every Redis key there is, in one table.

=====================================================  ======  ==================  ==========================================
key                                                    type    gone after          contents
=====================================================  ======  ==================  ==========================================
everwarm:epoch                                         string  permanent           random word; a new one means Redis was lost
everwarm:secret                                        string  permanent           key of the tokens between worker and dispatcher
everwarm:workers                                       zset    permanent, pruned   worker → its last heartbeat (ms)
everwarm:worker:<worker>                               hash    5 s                 mode, slots, host, pid: alive while it exists
everwarm:invocation:<request id>                       hash    reserved: 420 s,    state, attempt, worker, environment of the
                                                               run: its timeout +  newest attempt
                                                               60 s, done: 60 s,
                                                               void: 60 s, of an
                                                               event 180 s
everwarm:payload:<request id>[:<attempt>]              string  its end; claim_by,  a payload over 64 KiB
                                                               a start and its timeout
everwarm:message:<message>                             string  30 s unrenewed      the worker that has this message of events
everwarm:outcomes                                      stream  permanent           how events' attempts ended, until the ledger knows
everwarm:concurrency:<account>:<region>                zset    its last deadline   unreserved attempts → deadline (ms)
everwarm:concurrency:<account>:<region>:<function>     zset    its last deadline   the same of one function with a reservation
everwarm:replies:<dispatcher>                          list    60 s unread         outcomes for one dispatcher
everwarm:prepared:<id>                                 list    60 s unread         workers' answers to one request to prepare a function
everwarm:environment:<environment>                     hash    120 s unrenewed     state, owner, generation, worker, last use …
everwarm:environments:<worker>                         set     120 s unrenewed     a worker's environments
everwarm:leases:<worker>                               zset    120 s unrenewed     leased environment → end of the lease (ms)
everwarm:idle:<worker>                                 zset    120 s unrenewed     idle environment → last use (ms)
everwarm:warm:<mode>:<revision>                        zset    120 s unrenewed     idle environment → last use, over all workers
everwarm:mailbox:<worker>                              list    60 s unread         messages to one worker: moved batches, functions
                                                                                   to prepare, events to cancel
everwarm:superseded                                    zset    60 s                function version=revision → when (ms)
everwarm:logs                                          zset    permanent, pruned   log stream → last append (ms)
everwarm:log:<account>:<region>:<function>             stream  600 s               log chunks the dispatcher has not stored yet
everwarm:network-maker                                 string  10 s                which worker makes the containers' network now
everwarm:log-writer                                    string  10 s unrenewed      which dispatcher stores the logs
everwarm.<mode>.<lane>                                 list    permanent           Celery's queues
_kombu.binding*                                        set     permanent           kombu's exchange table
=====================================================  ======  ==================  ==========================================
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

EPOCH: Final = "everwarm:epoch"
SECRET: Final = "everwarm:secret"
WORKERS: Final = "everwarm:workers"
LOGS: Final = "everwarm:logs"
LOG_WRITER: Final = "everwarm:log-writer"
NETWORK_MAKER: Final = "everwarm:network-maker"
SUPERSEDED: Final = "everwarm:superseded"
OUTCOMES: Final = "everwarm:outcomes"
#: How long a note of a new revision stands.
SUPERSEDED_MS: Final = 60_000
#: How long unread answers to a request to prepare a function stay.
PREPARED_MS: Final = 60_000
#: How long messages lie in a mailbox that nobody reads.
MAILBOX_MS: Final = 60_000

#: Keys that may stand without a TTL; anything else without one is a leak, which the tests look for.
PERMANENT: Final = (EPOCH, SECRET, WORKERS, LOGS, OUTCOMES, "everwarm.*.*", "_kombu.binding*")


def worker(worker: str) -> str:
    """The hash with the description of one worker; while it exists the worker is alive."""
    return f"everwarm:worker:{worker}"


def invocation(request_id: str) -> str:
    """The hash with state, attempt, worker and environment of one invocation's newest attempt."""
    return f"everwarm:invocation:{request_id}"


def payload(request_id: str, attempt: int | None = None) -> str:
    """The string with a payload that is too large for its message.

    ``attempt`` is given for an event, because a message of an older attempt may still be read.
    """
    return f"everwarm:payload:{request_id}" if attempt is None else f"everwarm:payload:{request_id}:{attempt}"


def message(message: str) -> str:
    """The string with the name of the worker that has one batch of events."""
    return f"everwarm:message:{message}"


def concurrency(account: str, region: str, function: str | None = None) -> str:
    """The sorted set of running attempts (:func:`member`) by their deadlines.

    With ``function`` those of one function with reserved concurrency, without those of all other functions of the account.
    """
    base = f"everwarm:concurrency:{account}:{region}"
    return base if function is None else f"{base}:{function}"


def member(request_id: str, attempt: int) -> str:
    """The name of one attempt in a concurrency set; no key of its own."""
    return f"{request_id}:{attempt}"


def replies(dispatcher: str) -> str:
    """The list of outcomes for one dispatcher process."""
    return f"everwarm:replies:{dispatcher}"


def prepared(name: str) -> str:
    """The list of workers' answers to one request to prepare a function."""
    return f"everwarm:prepared:{name}"


def environment(environment: str) -> str:
    """The hash that is one environment's record."""
    return f"everwarm:environment:{environment}"


def environments(worker: str) -> str:
    """The set of environments that one worker owns."""
    return f"everwarm:environments:{worker}"


def leases(worker: str) -> str:
    """The sorted set of one worker's leased environments by the ends of their leases."""
    return f"everwarm:leases:{worker}"


def idle(worker: str) -> str:
    """The sorted set of one worker's idle environments by their last use."""
    return f"everwarm:idle:{worker}"


def warm(mode: str, revision: str) -> str:
    """The sorted set of one revision's idle environments by their last use, whoever owns them."""
    return f"everwarm:warm:{mode}:{revision}"


def mailbox(worker: str) -> str:
    """The list of messages to one worker alone (``workers.intake.mailbox``)."""
    return f"everwarm:mailbox:{worker}"


def log(account: str, region: str, function: str) -> str:
    """The stream of one function's log chunks that the dispatcher has not stored yet."""
    return f"everwarm:log:{account}:{region}:{function}"


def is_permanent(key: str, extra: Iterable[str] = ()) -> bool:
    """Whether ``key`` may stand without a TTL, by :data:`PERMANENT` and the patterns ``extra``."""
    return any(fnmatchcase(key, pattern) for pattern in (*PERMANENT, *extra))
