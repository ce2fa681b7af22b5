"""Everything that does without torch: data on disk, metrics, thresholds, submissions, flags."""
