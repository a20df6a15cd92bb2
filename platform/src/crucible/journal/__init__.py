"""The journal: what a run on a cluster leaves in the artifact store for everyone to read."""

from crucible.journal.journal import AttemptJournal, Journal
from crucible.journal.stream import LineReader, StreamReader, StreamWriter

__all__ = ["AttemptJournal", "Journal", "LineReader", "StreamReader", "StreamWriter"]
