"""Everything that does not need torch: data on disk, metrics, thresholds, submissions, flags."""
