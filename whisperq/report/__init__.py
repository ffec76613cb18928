"""Tables, progress and figures; the only place that imports matplotlib."""
