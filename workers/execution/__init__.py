"""From a batch to outcomes: claims, attempts, and the executor that runs them."""
