"""From the updates of a round to the change of the model."""
