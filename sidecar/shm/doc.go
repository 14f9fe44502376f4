// Package shm makes POSIX shared memory for a server on the same machine, and cleans up after
// owners that died. [Create] makes and maps an object; pass its Key to the other process, and call
// Unlink as soon as that process has it open. A segment costs its whole size in memory from the
// start. Do not use the package between processes of different users or different machines.
//
// The name of an object cannot be guessed, and only the user that made it can open it. Once it is
// unlinked, a crash of either side leaves nothing behind. [Sweep] removes what a crash before that
// moment has left. A [Claim] makes names for what a server remembers of its clients, such as a
// registration. Later [Dead] tells for which names the maker is gone.
//
// On systems other than Linux every function that makes something returns [errors.ErrUnsupported].
package shm
