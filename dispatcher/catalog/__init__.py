"""The catalog: functions, versions, aliases, policies, tags and reserved concurrency, in SQL.

Words: a *function* has ``$LATEST`` and immutable published *versions*; an *alias* names a version, and may give a
second one a part of the calls; a *key* (account, region, name) names a function, and nobody sees another account's or
region's functions.

``catalog`` has the :class:`~dispatcher.catalog.catalog.Catalog`, which the rest of the dispatcher talks to. Every other
module is plain functions of a SQLAlchemy connection, each one transaction: ``functions``, ``aliases``, ``policies``,
``tags``, ``concurrency`` and ``event_configs`` read and change, ``resolving`` answers what a call runs, and ``lookups``,
``rows`` and ``paging`` are what these share. What a caller did wrong is an ``AwsError`` raised inside, which rolls the
transaction back.

SQLite by default (WAL, ``synchronous=FULL``), one process at a time; PostgreSQL for several dispatchers.
"""
