"""Data by name: uint8 images and labels, validation splits, label noise and augmentation."""
