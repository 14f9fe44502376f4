// Package shm makes POSIX shared memory for a server on the same machine, and cleans up after
// owners that died.
//
// An object's name cannot be guessed, and only the user who made the object can open it. The owner
// unlinks the object as soon as the other side has it open, so a crash of either side leaves
// nothing behind. [Sweep] removes what a crash before that moment has left. A [Claim] makes names
// for what a server remembers of its clients, such as a registration. Later [Dead] tells whose
// maker is gone.
//
// On systems other than Linux every function that makes something returns [errors.ErrUnsupported].
package shm
