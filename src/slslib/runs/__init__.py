"""The long tasks: training, scoring, detecting and measuring, resumable and on any device."""
