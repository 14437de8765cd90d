"""Pages of ``docs/`` that are made from the code, and what the tests of the others read in them."""
