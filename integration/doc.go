// Package integration holds the tests of whole jobs: source, sidecar function and
// sink against the scripted sidecar, in virtual time and over real sockets; and,
// under the build tag "integration", as real processes that are killed.
package integration
