"""Commands around a run, and (in ``tools.run``) the parts a run is made of."""
