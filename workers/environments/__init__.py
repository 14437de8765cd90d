"""The environments that a worker keeps warm, and the seam by which a mode makes them."""
