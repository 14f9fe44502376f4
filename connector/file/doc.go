// Package file reads streams from files and writes them to files. A file holds lines, and each line
// is one record. The package also reads standard input and writes to standard output, with weaker
// promises.
//
// The package cuts files into splits, makes records of lines, and publishes results as part files
// exactly once. It must never know what the records mean, nor what happens to them between the
// source and the sink.
//
// # Lines and values
//
// A source has a [Decode], which makes a value of a line. [JSON] decodes a line of JSON, and [Raw]
// keeps it as it is. A sink has an [Encode], which makes the line of a value: [JSONLine] or
// [RawLine].
//
// # Sources
//
// [NewSource] returns a source that reads files. It cuts a file into byte ranges of SplitSize. A
// line belongs to the range in which it begins, so each line is in exactly one split, wherever the
// cuts are. The position of a record is the byte offset of its line. [NewStdin] returns a source
// that reads standard input, which can be read only once.
//
// A file must not change while a job reads it, or the job ends with a [ChangedError]. A checkpoint
// therefore keeps three checksums of a file: of its beginning, of the bytes before its end, and of
// the bytes that were read last before the position.
//
// # Sinks
//
// [NewSink] returns a sink that writes part files into a folder. A writer has one pending file for
// each split, under a hidden name. At a checkpoint the writer syncs the pending files. When the
// checkpoint is complete, they get their final names, part-<split>-<n>.jsonl. These names sort in
// the order of the input, so `cat part-*` is the job's output. A crash at any instant does not
// change it. A hidden list beside the parts has their sizes and checksums, and a run does not go on
// without the parts in it.
//
// [NewStdout] returns a sink that writes to standard output when a checkpoint is complete. After a
// crash the lines of the last checkpoint may be written once more.
package file
