"""The processes of a run: launch, coordination, preemption, watchdog, consistency."""
