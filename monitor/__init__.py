"""What does an operator see? Reports of a run; the fleet view and the page come with it."""
