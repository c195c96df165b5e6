"""One session of a run, from its options to its end: devices, inputs, records, pictures; and how a run resumes."""
