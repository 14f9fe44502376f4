// Package importrules holds, in its test, which package may import which, in both modules. It is
// how the project stays a set of parts that can be used one by one: the state
// machine without goroutines, the operator without a network, the runtime without a
// model server. It must never hold code that other packages use.
package importrules
