"""The door: HTTP in and out, who may come in, and who it is."""
