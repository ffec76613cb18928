"""What every long piece of work needs, whatever it computes: processes, signals, progress, a journal, a stopwatch."""
