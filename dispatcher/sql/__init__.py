"""The database behind the catalog and the ledger: one schema, one writer.

``tables`` is the schema, ``migrations`` brings an older one forward, ``database`` runs functions of a connection off the
event loop, ``typed_rows`` makes rows into Structs, ``hot`` has the statements that are run for every event, and
``skip_scan`` finds the distinct values of a column. Who reads and writes which table is the business of :mod:`dispatcher.catalog` and :mod:`dispatcher.ledger`.
"""
