// Package file reads streams from files and writes them to files: JSON Lines, one
// JSON value a line. It owns how files are cut into splits, how lines become
// records, and how results become part files exactly once; also standard input
// and output, with the weaker promises that they allow.
//
// It must never know what the records mean, nor what happens to them between the
// source and the sink.
//
// # Sources
//
// JSONLines and RawJSONLines read files. A file is cut into byte ranges of
// SplitSize; a line belongs to the range in which it begins, so each line is in
// exactly one split whatever the cut. A record's position is the byte offset of
// its line. Stdin and RawStdin read standard input, which can be read once only.
//
// A file stays the one that was cut, or the job ends (ChangedError). A split's description in a
// checkpoint has checksums of the file's beginning, of what lay before its end, and of what was
// read last before the position.
//
// # Sinks
//
// JSONLinesSink and RawSink write part files into a folder. A writer keeps one
// pending file for each split, under a hidden name; at a checkpoint they are
// synced, and when the checkpoint is complete they get their final names,
// part-<split>-<n>.jsonl. These sort in the order of the input, so `cat part-*`
// is the job's output, and a crash at any instant changes nothing about it. A hidden
// list beside them has their sizes and checksums: a run does not go on without its parts.
// StdoutSink and RawStdoutSink write to standard output when a checkpoint is
// complete; after a crash the last checkpoint's lines may be written once more.
package file
