"""Run folders: status, trackers, notifications, sharing."""
