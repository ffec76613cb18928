"""Verbs: one file, one command, one public function of the same name."""
