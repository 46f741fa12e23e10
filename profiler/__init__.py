"""What can this machine do? Facts, timed training steps, memory, and the predictions from them."""
