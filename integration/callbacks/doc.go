// Package callbacks holds, in its tests, what becomes of a user's mistake in each function and
// method that a user gives to a public package: never the end of the process.
package callbacks
