"""The app: score a recording in the browser; ``python -m slsapp`` starts it (extra ``app``)."""
