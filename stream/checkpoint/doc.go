// Package checkpoint owns what a job remembers between two lives: the Snapshot,
// its file format, the folder that holds the snapshots of a run, and the rules by
// which a run starts, resumes, or is refused.
//
// It must never know what the states in a snapshot mean, nor who takes snapshots
// and when: to this package an operator's state is bytes under a name.
//
// # The folder
//
//	DIR/lock                          held by the one process that may write here
//	DIR/run-000001-5f0c9a3be1d27486/run           the run's marker: a run began, and
//	                                              which checkpoint was its newest
//	DIR/run-000001-5f0c9a3be1d27486/chk-00000007  one snapshot, whole or absent
//
// Every file is written under a temporary name, synced, renamed, and its folder
// synced, so a name that is there is complete, whatever crashed. A new run's
// folder stands beside its predecessor's until the new run has a checkpoint of
// its own, because only then is the predecessor's state no longer needed.
package checkpoint
