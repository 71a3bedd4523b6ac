"""Folders of photographs and masks: found, checked, split, prepared, augmented; and lesions that are drawn."""
