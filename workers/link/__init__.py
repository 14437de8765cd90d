"""The worker's end of a relay: the frames on a stream, and the answers that come of them."""
