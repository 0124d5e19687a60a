"""What takes long: training, scoring, detecting and measuring, resumable and on any device."""
