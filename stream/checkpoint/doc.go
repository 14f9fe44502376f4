// Package checkpoint keeps the checkpoints of a job in a folder, so that the job can go on after a
// crash. [Open] opens a folder as a [Store]. Resume, Start, Fresh or From begins a [Run], whose
// Restore a program passes to stream.Config.Resume, and the Store to stream.CheckpointConfig.Store.
// The job then writes a [Snapshot] for each checkpoint.
//
// A write costs a file with a sync of the file and of its folder, and then the same for the run's
// small marker. A Snapshot is held in memory while it is written or read. One process at a time may
// write to a folder. A job that needs no checkpoint after its process ends uses
// stream.NewMemoryStore.
//
// The package owns the Snapshot, its file format, the folder, and the rules by which a run starts,
// resumes or is refused. It must never know what the states in a snapshot mean, or what takes
// snapshots and when: an operator's state is bytes under a name.
//
// # The folder
//
//	DIR/lock                          held by the one process that may write here
//	DIR/run-000001-5f0c9a3be1d27486/run           the run's marker: a run began, and
//	                                              which checkpoint was its newest
//	DIR/run-000001-5f0c9a3be1d27486/chk-00000007  one snapshot, whole or absent
//
// Every file is written under a temporary name, synced and renamed, and then its folder is synced.
// So a file with a final name is complete, whatever crashed. The folder of a new run stands beside
// that of its predecessor until the new run has a checkpoint of its own. Before that the state of
// the predecessor may still be needed.
package checkpoint
