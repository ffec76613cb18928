"""What several test modules share: tiny models, scripted runtimes, processes that can be killed, damaged files."""
