"""Code that needs torch: networks, losses, augmentations, snapshots, training and prediction loops."""
