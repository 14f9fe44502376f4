// Package job reads job files: the YAML that says what a job reads, which model
// answers it, where the answers go, and how it is checkpointed and restarted.
//
// It owns the file's keys, their types, ranges and defaults' meaning, and the
// messages for whoever wrote the file. The result is a [Spec], which is plain
// data. The package must never know who runs a Spec: it opens no file but the job
// file itself, dials nothing and imports no runtime, so that the same file can be
// run by any host.
//
// Reading is strict. A key that is not known, a wrong type, a value that cannot
// be, a key that is given twice: each is a [Fault] with file, line, column and
// what was expected. All faults of a file are reported together.
package job
