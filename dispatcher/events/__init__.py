"""The asynchronous path beside the ledger: what moves events between it, the workers and the world.

``feeder`` sends what is due to the workers, and rescues what is in flight when its message or its worker is lost;
``settler`` applies the outcomes that come back; ``deliverer`` sends what an end causes through ``destinations``;
``cancelling`` stops what somebody wants stopped; ``asynchronous_path`` starts and stops them together. None of them keeps
anything that the ledger does not have, so each can die at any moment, on any dispatcher.
"""
