"""Mode ``local``: functions run as processes of the worker's own machine."""
