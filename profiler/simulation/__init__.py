"""A fleet that is made up and timed by profiles: start at `engine.Engine`, then `simulated_backend.SimulatedBackend`."""
