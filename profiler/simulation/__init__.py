"""A made-up fleet, timed by profiles: start at `engine.Engine`, then `simulated_backend.SimulatedBackend`."""
