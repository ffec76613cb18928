"""Files of results: hypotheses, scores, transcripts, alignments."""
