"""What has nothing to do with images: files, processes, devices, signals."""
