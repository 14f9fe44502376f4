// Package job reads job files: the YAML that says what a job reads, which model answers it, where
// the answers go, and how it is checkpointed and restarted. [Load] reads one and returns a [Spec],
// which is plain data; a host such as package job/local or flink/jobfile runs it. A job written in
// Go needs no job file: use package stream.
//
// The package owns the file's keys, their types, ranges and the meaning of their defaults, and the
// messages for the file's author. It must never know which host runs a Spec. It opens no file
// except the job file and the certificates that a host asks for, dials nothing and imports no
// runtime. So every host can run the same file.
//
// Reading is strict. An unknown key, a wrong type, a value out of range and a key that is given
// twice are each a [Fault] with file, line, column and what was expected. All faults of a file are
// reported together. A file may have at most [MaxFile] bytes, so reading is quick.
package job
