"""Everything that needs torch: networks, losses, augmentations, the loops, the snapshots."""
