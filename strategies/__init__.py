"""Test-time-scaling strategies: pure algorithms over an injected sampler. Start at `base`, then `self_consistency`."""
