"""What each device's update was worth: the game, its estimators, and the ledger over rounds."""
