"""The database behind the catalog and the ledger: one schema, one writer.

``tables`` is the schema, ``migrations`` brings an older one forward, ``database`` runs functions of a connection off the
event loop. Who reads and writes which table is the business of :mod:`dispatcher.catalog` and :mod:`dispatcher.ledger`.
"""
