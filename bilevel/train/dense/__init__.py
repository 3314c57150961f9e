"""Data and measures of detection and segmentation."""
