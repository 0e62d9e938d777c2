"""What a run would do, cost and need, before it is started."""
