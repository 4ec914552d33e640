"""Settings: typed groups, value checks, cross-setting checks. Imports no torch, so a bad config fails in a second."""
