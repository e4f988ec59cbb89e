"""Traffic against a fleet in virtual time: the proxy's planner and strategies over simulated engines, without bodies,
streams and an event loop between them. `proxy.in_process` runs the whole proxy in virtual time; this is what is left of
it when only times, costs and answers are wanted, and several times as fast.
"""
