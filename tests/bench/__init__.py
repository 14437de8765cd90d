"""``python -m tests.bench`` (``make bench``): Everwarm beside the bare parts it is made of, in one run on one machine.

What stands in one line of the table is measured in turns (bare, Everwarm, bare, …), so that a machine that changes its
speed changes both; figures are medians over these rounds. Clients live in processes of their own. Everything is on
loopback and unix sockets, bounded in count and time, and gone afterwards.
"""
